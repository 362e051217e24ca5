//! Files as other programs write them: separators, decimal commas, names, comments, and the rows that are used.

use crate::common::{Folder, UNLABELLED, row};
use ps_core::Samples;
use ps_data::{
    DataConfig, DataError, Decimal, Loaded, NewData, NoProgress, RowRange, Separator, Task, inspect,
};

fn list<const N: usize>(names: [&str; N]) -> Option<Vec<String>> {
    Some(names.map(String::from).to_vec())
}

fn rows(range: &str) -> Option<RowRange> {
    Some(range.parse().unwrap())
}

/// The rows of the training part: features, then the target.
fn table(loaded: &Loaded) -> Vec<Vec<f32>> {
    let with_target = |index| [row(&loaded.train, index), vec![loaded.train.target(index)]].concat();
    (0..loaded.train.len()).map(with_target).collect()
}

fn read(content: &str, config: &DataConfig) -> Result<Loaded, DataError> {
    let folder = Folder::new();
    folder.write("file", content);
    folder.load(&DataConfig { train: "csv:file".into(), ..config.clone() }, Task::Regression)
}

fn notes(loaded: &Loaded) -> Vec<String> {
    loaded.notes().map(|note| note.split_once("file: ").unwrap().1.to_string()).collect()
}

#[test]
fn the_separator_is_the_one_that_cuts_all_rows_alike() {
    let expected = [vec![1.0, 2.5, 3.0], vec![4.0, 5.0, 6.5]];
    for (content, note) in [
        ("a,b,y\n1,2.5,3\n4,5,6.5\n", None),
        ("a;b;y\n1;2.5;3\n4;5;6.5\n", Some("semicolons")),
        ("a\tb\ty\n1\t2.5\t3\n4\t5\t6.5\n", Some("tabs")),
        ("a|b|y\r\n1|2.5|3\r\n4|5|6.5\r\n", Some("`|`")),
        ("  a  b y\n1 2.5 \t 3\n\n 4   5    6.5  ", Some("blanks")),
        // Other candidates within the cells of the header do not cut the rows below it.
        ("\"a;1\",b;2,y\n1,2.5,3\n4,5,6.5\n", None),
        ("a;\"b,1\";y\n1;2.5;3\n4;5;6.5\n", Some("semicolons")),
    ] {
        let loaded = read(content, &DataConfig::new("")).unwrap();
        assert_eq!(table(&loaded), expected, "{content}");
        let note = note.map(|separator| format!("cells are separated by {separator}"));
        assert_eq!(notes(&loaded), Vec::from_iter(note), "{content}");
    }
    // A separator that the run file sets is not worth a note.
    let config = DataConfig { separator: Some(Separator::Byte(b':')), ..DataConfig::new("") };
    let loaded = read("a:b:y\n1:2.5:3\n4:5:6.5\n", &config).unwrap();
    assert_eq!((table(&loaded), notes(&loaded)), (expected.to_vec(), vec![]));
}

#[test]
fn a_file_that_two_separators_cut_alike_is_refused() {
    let folder = Folder::new();
    let settle = "set the key";
    for (content, candidates) in [
        (
            "a;1,y\nb;2,3\n",
            "commas (`data.separator = \",\"`, 2 columns) or semicolons (`data.separator = \";\"`, 2 columns)",
        ),
        (
            "1 2 3\t\"x y\"\n4 5 6\t\"z\"\n",
            "tabs (`data.separator = \"\\t\"`, 2 columns) or blanks (`data.separator = \" \"`, 4 columns)",
        ),
    ] {
        let refusal = folder.refuses("csv", content, Task::Regression);
        assert_eq!(refusal, format!("file: cells may be separated by {candidates}; {settle}"));
    }
    let config = DataConfig {
        separator: Some(Separator::Blanks),
        header: Some(false),
        label: Some("0".into()),
        ..DataConfig::new("")
    };
    let loaded = read("1 2 3\t\"x y\"\n4 5 6\t\"z\"\" z\"\n", &config).unwrap();
    assert_eq!(loaded.feature_names, ["1", "2", "3=x y", "3=z\" z"]);
}

#[test]
fn a_ragged_row_is_reported_in_terms_of_the_separator_of_the_first_row() {
    let folder = Folder::new();
    let refusal = folder.refuses("csv", "a;b;y\n1;2;3\n4;5\n", Task::Regression);
    assert_eq!(refusal, "file:3: expected 3 cells, as in the header, found 2");
}

#[test]
fn decimal_commas_are_read_everywhere() {
    let config = DataConfig { decimal: Decimal::Comma, ..DataConfig::new("") };
    let loaded = read("a;b;y\n1,5;-2e3;,5\n3;-0,25;1,\n", &config).unwrap();
    assert_eq!(table(&loaded), [[1.5, -2000.0, 0.5], [3.0, -0.25, 1.0]]);
    // Without a header, the commas would cut the rows alike as well.
    let loaded = read("1,5;2,5\n3,5;4,5\n", &DataConfig { header: Some(false), ..config.clone() }).unwrap();
    assert_eq!(table(&loaded), [[1.5, 2.5], [3.5, 4.5]]);

    let folder = Folder::new();
    folder.write("file", "a;y\n1.5;2\n");
    let refusal =
        folder.refusal(&DataConfig { train: "csv:file".into(), ..config.clone() }, Task::Regression);
    assert!(refusal.starts_with("file:2: column `a`: expected a number, found `1.5`"), "{refusal}");
    folder.write("file", "a;y\n1;0,5\n2;1,5\n3;0,50\n");
    let classes = folder.load(&DataConfig { train: "csv:file".into(), ..config }, Task::Classes).unwrap();
    assert_eq!(classes.class_names, ["0.5", "1.5"]);
}

#[test]
fn names_in_the_run_file_stand_for_a_header() {
    let config = DataConfig { names: list(["a", "b", "y"]), label: Some("b".into()), ..DataConfig::new("") };
    for content in [
        "1,2,3\n4,5,6\n",
        // A row of these names is a header all the same, and tells their order.
        "y,b,a\n3,2,1\n6,5,4\n",
    ] {
        let mut names = read(content, &config).unwrap().feature_names;
        names.sort();
        assert_eq!(names, ["a", "y"], "{content}");
    }
    let replaced = DataConfig { header: Some(true), ..config.clone() };
    let loaded = read("u,v,w\n1,2,3\n4,5,6\n", &replaced).unwrap();
    assert_eq!((loaded.feature_names.join(" "), loaded.train.len()), ("a y".into(), 2));

    let folder = Folder::new();
    folder.write("file", "1,2,3\n4,5,6\n").write("unlabelled", "1,3\n").write("short", "1,2\n");
    let loaded =
        folder.load(&DataConfig { train: "csv:file".into(), ..config.clone() }, Task::Regression).unwrap();
    folder.write("more", "extra,b,a,y\n9,2,1,3\n");
    let new = |name: &str, is_labelled| {
        loaded.encoder().load(name, NewData { is_labelled, is_strict: false }, folder.path(), &NoProgress)
    };
    let more = new("csv:more", true).unwrap();
    assert_eq!((row(&more, 0), more.target(0)), (vec![1.0, 3.0], 2.0));
    assert_eq!(row(&new("csv:unlabelled", false).unwrap(), 0), [1.0, 3.0]);
    let refusal = new("csv:short", true).unwrap_err().to_string();
    assert!(
        refusal.ends_with("short:1: the row has 2 cells (separated by commas), and data.names lists 3 names"),
        "{refusal}"
    );
    let twice = DataConfig { names: list(["a", "a", "y"]), train: "csv:file".into(), ..DataConfig::new("") };
    assert_eq!(
        folder.refusal(&twice, Task::Regression),
        "file:1: column 1 has the same name as an earlier column, `a`"
    );
}

#[test]
fn columns_can_be_dropped_or_selected() {
    let content = "id,name,a,b,y\n1,u,2,3,4\n5,v,6,7,8\n9,w,1,2,3\n1,x,2,3,4\n5,z,6,7,8\n";
    let dropped = DataConfig { drop: list(["id", "name"]), ..DataConfig::new("") };
    let used = DataConfig { only: list(["a", "b", "y"]), ..DataConfig::new("") };
    for config in [&dropped, &used] {
        assert_eq!(read(content, config).unwrap().feature_names, ["a", "b"]);
    }
    let folder = Folder::new();
    folder.write("train", content).write("other", "extra,b,a,y\n1,2,3,4\n");
    let with = |config: &DataConfig| DataConfig {
        train: "csv:train".into(),
        test: Some("csv:other".into()),
        ..config.clone()
    };
    assert_eq!(row(&folder.load(&with(&used), Task::Regression).unwrap().test.unwrap(), 0), [3.0, 2.0]);
    assert_eq!(
        folder.refusal(&with(&dropped), Task::Regression),
        "other:1: column `extra` does not occur in the training data; did you mean `a`?"
    );
    let refusal = |config: DataConfig| {
        folder.refusal(&DataConfig { train: "csv:train".into(), ..config }, Task::Regression)
    };
    assert_eq!(
        refusal(DataConfig { drop: list(["nam"]), ..DataConfig::new("") }),
        "data.drop: train has no column `nam`; did you mean `name`?"
    );
    assert_eq!(
        refusal(DataConfig { drop: list(["y"]), ..DataConfig::new("") }),
        "data.drop: `y` is the label column; select another one with data.label"
    );
    assert_eq!(
        refusal(DataConfig { only: list(["a"]), ..dropped.clone() }),
        "data.use: data.drop is set as well, and only one of them can be"
    );
    let mut both = dropped;
    both.columns.insert("id".into(), ps_data::ColumnKind::Number.into());
    assert_eq!(refusal(both), "data.columns: data.drop lists `id`");
}

#[test]
fn rows_without_a_label_are_skipped_on_request() {
    let folder = Folder::new();
    folder
        .write("train", "a,y\n1,2\n3,NA\n4,\n5,6\n")
        .write("test", "y,a\nNA,1\n7,8\n")
        .write("none", "a,y\n1,\n");
    let config = DataConfig {
        test: Some("csv:test".into()),
        skip_missing_target: true,
        ..DataConfig::new("csv:train")
    };
    let loaded = folder.load(&config, Task::Regression).unwrap();
    assert_eq!(table(&loaded), [[1.0, 2.0], [5.0, 6.0]]);
    let test = loaded.test.as_ref().unwrap();
    assert_eq!((test.len(), row(test, 0), test.target(0)), (1, vec![8.0], 7.0));
    let notes: Vec<String> = loaded.notes().map(|note| note.rsplit_once('/').unwrap().1.to_owned()).collect();
    assert_eq!(
        notes,
        ["train: skipped 2 rows without a label (`y`)", "test: skipped 1 rows without a label (`y`)"]
    );
    // Predictions need no label.
    let new = loaded.encoder().load("csv:test", UNLABELLED, folder.path(), &NoProgress).unwrap();
    assert_eq!(new.len(), 2);
    let none = DataConfig { train: "csv:none".into(), ..config.clone() };
    assert_eq!(folder.refusal(&none, Task::Regression), "none: the label `y` is missing in every row");
    let kept = DataConfig { skip_missing_target: false, ..config };
    assert!(folder.refusal(&kept, Task::Regression).contains("data.skip_missing_target = true"));
}

#[test]
fn a_range_of_rows_is_taken_from_any_source() {
    let folder = Folder::new();
    folder.write("table", "a,y\n0,0\n1,1\n\n2,2\n3,3\n4,4\n").write("sparse", "0 9:1\n1 1:5\n2 3:1 4:2\n");
    let config = DataConfig {
        rows: rows("..3"),
        test: Some("csv:table".into()),
        test_rows: rows("3.."),
        ..DataConfig::new("csv:table")
    };
    let loaded = folder.load(&config, Task::Regression).unwrap();
    assert_eq!(table(&loaded), [[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]]);
    let test = loaded.test.unwrap();
    assert_eq!((test.len(), row(&test, 1)), (2, vec![4.0]));

    let sparse = DataConfig { rows: rows("1..3"), ..DataConfig::new("libsvm:sparse") };
    let loaded = folder.load(&sparse, Task::Regression).unwrap();
    assert_eq!(table(&loaded), [[5.0, 0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 1.0, 2.0, 2.0]]);

    let digits = DataConfig { rows: rows("5..15"), ..DataConfig::new("digits:20") };
    let whole = folder.load(&DataConfig::new("digits:20"), Task::Classes).unwrap();
    let part = folder.load(&digits, Task::Classes).unwrap();
    assert_eq!((part.train.len(), row(&part.train, 2)), (10, row(&whole.train, 7)));
    assert_eq!(part.train.target(2), whole.train.target(7));

    let beyond = DataConfig { rows: rows("2..6"), ..DataConfig::new("csv:table") };
    assert_eq!(
        folder.refusal(&beyond, Task::Regression),
        "data.rows: `csv:table` has no rows 2..6, it has 5 rows"
    );
    let unused = DataConfig { test_rows: rows("1.."), ..DataConfig::new("csv:table") };
    assert!(folder.refusal(&unused, Task::Regression).starts_with("data.test_rows: there is no test source"));
}

#[test]
fn full_stops_after_all_labels_of_a_test_file_are_ignored() {
    let folder = Folder::new();
    folder.write("train", "a,y\n1,no\n2,yes\n3,a.b\n");
    let config = DataConfig { test: Some("csv:test".into()), ..DataConfig::new("csv:train") };
    folder.write("test", "a,y\n1,yes.\n2,no.\n3,a.b.\n");
    let test = folder.load(&config, Task::Classes).unwrap().test.unwrap();
    assert_eq!([test.target(0), test.target(1), test.target(2)], [2.0, 1.0, 0.0]);
    for (content, label) in [("a,y\n1,yes.\n2,no\n", "yes."), ("a,y\n1,yes.\n2,maybe.\n", "yes.")] {
        folder.write("test", content);
        let refusal = folder.refusal(&config, Task::Classes);
        assert!(
            refusal.contains(&format!("label `{label}` does not occur in the training data")),
            "{refusal}"
        );
    }
}

#[test]
fn comments_are_skipped_where_they_cannot_be_rows() {
    let expected = [vec![1.0, 2.0], vec![3.0, 4.0]];
    for content in [
        "# from a, b and c\n\n% \"quoted\na,y\n1,2\n3,4\n",
        "|1x3 Cross validator\na,y\n1,2\n3,4\n",
        "a,y\n1,2\n# half\n3,4\n#\n",
    ] {
        let loaded = read(content, &DataConfig::new("")).unwrap();
        assert_eq!(table(&loaded), expected, "{content}");
        assert!(notes(&loaded)[0].contains("lines of comments"), "{:?}", notes(&loaded));
    }
    // Lines with as many cells as the others are rows.
    let loaded = read("#a,y\n1,2\n3,4\n", &DataConfig::new("")).unwrap();
    assert_eq!((loaded.feature_names.join(" "), notes(&loaded)), ("#a".into(), vec![]));
    let headless = DataConfig { header: Some(false), ..DataConfig::new("") };
    assert_eq!(read("#1,2\n#2,3\n#1,4\n", &headless).unwrap().train.len(), 3);
    let folder = Folder::new();
    assert_eq!(
        folder.refuses("csv", "# a\na,y\n1,2\n#1,2,3\n", Task::Regression),
        "file:4: expected 2 cells, as in the header, found 3"
    );
    assert_eq!(
        folder.refuses("csv", "# a\n\n# b\na,y\n\"1\"2,3\n", Task::Regression),
        "file:5: there is text after the closing quote of a cell; double the quotes inside a quoted cell"
    );
}

#[test]
fn an_inspection_says_what_separates_the_cells() {
    let folder = Folder::new();
    folder.write("file", "a;y\n1;2\n");
    let seen = inspect("csv:file", &DataConfig::new(""), folder.path()).unwrap();
    assert_eq!(seen.separator, Some(Separator::Byte(b';')));
}
