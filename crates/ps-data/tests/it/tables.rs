//! CSV and LIBSVM files that could be read in two ways are refused, with the key that resolves the ambiguity.

use crate::common::{Folder, LABELLED, UNLABELLED, row, shared};
use ps_core::Samples;
use ps_data::{
    ColumnConfig, ColumnKind, ColumnUse, DataConfig, Decimal, Missing, NoProgress, Separator, Task, inspect,
};
use std::collections::BTreeMap;

fn columns<const N: usize>(columns: [(&str, ColumnKind); N]) -> BTreeMap<String, ColumnConfig> {
    columns.into_iter().map(|(name, kind)| (name.to_string(), kind.into())).collect()
}

/// A table with a column `x` of these cells and a numeric column `y`.
fn column(cells: impl IntoIterator<Item = impl std::fmt::Display>) -> String {
    let rows = cells.into_iter().enumerate().map(|(row, cell)| format!("\"{cell}\",{row}\n"));
    format!("x,y\n{}", rows.collect::<String>())
}

#[test]
fn a_first_row_that_may_be_data_is_refused() {
    let folder = Folder::new();
    let settle = "set data.header = true if it is, or false if it is data";
    for (content, line, doubt) in [
        ("1,2\n3,4\n", 1, "`1` is a number"),
        ("setosa,5.1,3.5\nvirginica,6.3,3.3\n", 1, "`5.1` is a number"),
        ("\n\nred,1e400,a\nblue,2,b\n", 3, "`1e400` is a number"),
        ("red,\"1,200\"\nblue,\"3,400\"\n", 1, "`1,200` resembles a number"),
        ("red,12%\nblue,13%\n", 1, "`12%` resembles a number"),
        ("NA,y\n1,2\n", 1, "`NA` marks a missing value"),
        ("x,?\n1,2\n", 1, "`?` marks a missing value"),
        (",,y\n1,2,3\n", 1, "two names are empty"),
        ("red,small\nblue,large\n", 1, "no column below it contains only numbers"),
        ("a,b\n1,x\ny,2\n", 1, "no column below it contains only numbers"),
        ("a,b\n,x\nNA,y\n", 1, "no column below it contains only numbers"),
        ("a~b\n1~2\n", 1, "no column below it contains only numbers (cells are separated by commas)"),
    ] {
        let refusal = folder.refuses("csv", content, Task::Regression);
        assert_eq!(
            refusal,
            format!("file:{line}: cannot tell whether the first row is a header: {doubt}; {settle}"),
            "{content}"
        );
        let error = inspect("csv:file", &DataConfig::new(""), folder.path()).unwrap_err().to_string();
        assert!(error.ends_with(settle), "{error}");
    }
    // The list of markers affects the decision.
    folder.write("file", "nil,y\n1,2\n");
    let config = DataConfig { missing_values: Some(vec!["nil".into()]), ..DataConfig::new("csv:file") };
    assert!(folder.refusal(&config, Task::Regression).contains("`nil` marks a missing value"));
}

#[test]
fn a_first_row_of_names_above_a_column_of_numbers_is_a_header() {
    let folder = Folder::new();
    for content in [
        "name,y\nred,1\nblue,2\n",
        "name,y\nred,1\nblue,inf\n",
        // The unnamed index column that pandas writes.
        ",y\n0,1\n1,2\n",
        "name,y\nred,1\nblue,\n",
        "name,y\nred,\"1,200\"\nblue,NA\n",
    ] {
        folder.write("file", content);
        let seen = inspect("csv:file", &DataConfig::new(""), folder.path()).unwrap();
        assert_eq!(seen.samples, 2, "{content}");
    }
    assert_eq!(
        folder.refuses("csv", "x,y\n", Task::Regression),
        "file: the file contains a header but no \
                                                                  rows"
    );
}

#[test]
fn the_header_key_decides_whether_there_is_a_header() {
    let folder = Folder::new();
    folder.write("file", "setosa,5.1,3\nvirginica,6.3,4\n").write("years", "2019,2020\n1,2\n");
    let data = DataConfig { header: Some(false), ..DataConfig::new("csv:file") };
    let loaded = folder.load(&data, Task::Regression).unwrap();
    assert_eq!((loaded.train.len(), row(&loaded.train, 0)), (2, vec![1.0, 0.0, 5.1]));
    assert_eq!(loaded.feature_names, ["0=setosa", "0=virginica", "1"]);
    let by_number =
        DataConfig { label: Some("1".into()), columns: columns([("2", ColumnKind::Ignore)]), ..data.clone() };
    let loaded = folder.load(&by_number, Task::Regression).unwrap();
    assert_eq!((row(&loaded.train, 1), loaded.train.target(1)), (vec![0.0, 1.0], 6.3));

    let names = DataConfig { header: Some(true), ..DataConfig::new("csv:years") };
    let loaded = folder.load(&names, Task::Regression).unwrap();
    assert_eq!((loaded.train.len(), loaded.feature_names), (1, vec!["2019".to_string()]));
    let names = DataConfig { header: Some(true), ..DataConfig::new("csv:file") };
    assert_eq!(folder.load(&names, Task::Regression).unwrap().train.len(), 1);
    folder.write("ragged", "a,1\nb,2,3\n");
    let ragged = DataConfig { train: "csv:ragged".into(), ..data };
    assert_eq!(
        folder.refusal(&ragged, Task::Regression),
        "ragged:2: expected 2 cells, as in the first row, found 3"
    );
}

#[test]
fn other_sources_have_a_header_where_the_training_source_has_one() {
    let folder = Folder::new();
    folder.write("train", "colour,size\nred,1\nblue,2\n");
    let config =
        |test: &str| DataConfig { test: Some(format!("csv:{test}")), ..DataConfig::new("csv:train") };
    // A column without any value is no reason for doubt here.
    folder.write("empty", "size,colour\nNA,red\n").write("headless", "red,3\nblue,4\n");
    let mean = DataConfig { missing: Missing::Mean, label: Some("colour".into()), ..config("empty") };
    assert_eq!(folder.load(&mean, Task::Classes).unwrap().test.unwrap().len(), 1);
    let refusal = folder.refusal(&config("headless"), Task::Regression);
    assert!(refusal.starts_with("headless:1: column `red` does not occur in the training data"), "{refusal}");

    // Without a header, columns are selected by index.
    folder.write("bare", "red,1\nblue,2\n").write("short", "red\nblue\n");
    let bare = DataConfig { header: Some(false), ..DataConfig::new("csv:bare") };
    let loaded = folder.load(&bare, Task::Regression).unwrap();
    let read = loaded.encoder().load("csv:short", UNLABELLED, folder.path(), &NoProgress).unwrap();
    assert_eq!((read.len(), row(&read, 1)), (2, vec![1.0, 0.0]));
    let first = DataConfig { label: Some("0".into()), ..bare };
    let loaded = folder.load(&first, Task::Classes).unwrap();
    let error =
        loaded.encoder().load("csv:short", LABELLED, folder.path(), &NoProgress).unwrap_err().to_string();
    assert!(
        error.ends_with("column `1`, which the training data has, is missing; cells are separated by commas"),
        "{error}"
    );
}

#[test]
fn misplaced_quotes_are_refused_with_their_line() {
    let folder = Folder::new();
    let open = "the quote that opens this cell is never closed";
    let text = "there is text after the closing quote of a cell; double the quotes inside a quoted cell";
    for (content, expected) in [
        ("x,y\n1,2\n\"3,4\n5,6\n", format!("3: {open}")),
        ("x,y\n\"a\nb\",2\n1,\"2\n3,4\n", format!("4: {open}")),
        ("x,y\n1,2\n3,\"", format!("3: {open}")),
        ("x,y\n1,\"\"\"2\n", format!("2: {open}")),
        // A stray quote ends at the next quote, which may be far away. The text after that one
        // reveals the error.
        ("x,y\n\"a,1\nb,2\n\"c\",3\n", format!("4: {text}")),
        ("x,y\n\"the \"big\" one\",1\n", format!("2: {text}")),
        ("x,y\n\"a\" \"b\",1\n", format!("2: {text}")),
        ("x,y\n1, \"2\"\n", "2: there are spaces before the opening quote of a cell; remove them".into()),
    ] {
        let refusal = folder.refuses("csv", content, Task::Regression);
        assert_eq!(refusal, format!("file:{expected}"), "{content}");
    }
    // A quote within an unquoted cell, and a doubled quote in a quoted cell, are ordinary characters.
    folder.write("file", "x,y\r\n6\"2,1\r\n\"a\"\"b\" ,\"2\"\r\n\"\",\"3\"\r\n");
    let config = DataConfig { missing: Missing::Mean, ..DataConfig::new("csv:file") };
    let loaded = folder.load(&config, Task::Regression).unwrap();
    assert_eq!(loaded.feature_names, ["x=6\"2", "x=a\"b"]);
}

#[test]
fn mostly_numeric_columns_are_refused_with_the_first_non_number() {
    let folder = Folder::new();
    let mixed = |texts: usize, text: &str, numbers: usize| {
        column((0..texts).map(|_| text.to_string()).chain((0..numbers).map(|number| number.to_string())))
    };
    let removed = "are numbers after removal of separators, decimal commas and `%`";
    for (content, line, text, mostly) in [
        (column(["1,200", "3,400", "1,200"]), 2, "1,200", format!("3 of the column's 3 values {removed}")),
        (column(["12%", "12%", "13%"]), 2, "12%", format!("3 of the column's 3 values {removed}")),
        (column(["3,5", "4,5", "5%"]), 2, "3,5", format!("3 of the column's 3 values {removed}")),
        (column(["1", "2", "1,0", "x", "x"]), 4, "1,0", format!("3 of the column's 5 values {removed}")),
        (column(["1", "2", "-", "2", "1"]), 4, "-", "4 of the column's 5 values are numbers".into()),
        (column(["1", "2", "1", "N/A", "oops"]), 6, "oops", "3 of the column's 4 values are numbers".into()),
        // A single string fills most of the cells.
        (mixed(60, "-", 6), 2, "-", "6 of the column's 7 distinct values are numbers".into()),
    ] {
        let expected = format!(
            "file:{line}: column `x`: expected a number, found `{text}`: {mostly}; write it as a plain \
             number, list it in data.missing_values, or set data.columns.x = \"category\" or \"ignore\""
        );
        assert_eq!(folder.refuses("csv", &content, Task::Regression), expected, "{content}");
        let seen = inspect("csv:file", &DataConfig::new(""), folder.path()).unwrap();
        let ColumnUse::Refused(refusal) = &seen.columns[0].becomes else { panic!("{:?}", seen.columns) };
        assert!(refusal.ends_with(&expected), "{refusal}");
    }
    // Commas that cannot separate thousands are decimal.
    assert_eq!(
        folder.refuses("csv", column(["3,5", "1,200", "4"]), Task::Regression),
        "file:2: column `x`: expected a number, found `3,5`: all values of the column are numbers with decimal \
         commas; set data.decimal = \",\" and data.separator = \",\", or data.columns.x = \"category\" or \"ignore\""
    );
    let both = DataConfig {
        decimal: Decimal::Comma,
        separator: Some(Separator::Byte(b',')),
        ..DataConfig::new("csv:file")
    };
    assert_eq!(row(&folder.load(&both, Task::Regression).unwrap().train, 1), [1.2]);
    // Exactly half of the cells are numbers, which is not more than half.
    folder.write("file", column(["1", "2", "3+", "none"]));
    let loaded = folder.load(&DataConfig::new("csv:file"), Task::Regression).unwrap();
    assert_eq!(loaded.categories(), [("x".into(), 4)]);
}

#[test]
fn columns_whose_values_are_nearly_all_different_are_refused() {
    let folder = Folder::new();
    let names =
        |different: usize, all: usize| column((0..all).map(|row| format!("name {}", row.min(different - 1))));
    let refusal = |different: usize, all: usize| {
        format!(
            "file:2: column `x`: `name 0` is one of {different} distinct values in {all} cells, and each \
             would become a feature; set data.columns.x = \"ignore\" or, if that is intended, \"category\""
        )
    };
    let dates = folder.refuses("csv", column((10..20).map(|day| format!("2024-02-{day}"))), Task::Regression);
    assert!(dates.contains("set data.columns.x = \"date\" or \"ignore\" or, if"), "{dates}");
    for (different, all) in [(5, 5), (90, 100), (100, 100), (1500, 1500)] {
        let content = names(different, all);
        assert_eq!(folder.refuses("csv", content, Task::Regression), refusal(different, all));
    }
    for (different, all) in [(2, 2), (4, 4), (89, 100), (1000, 2000)] {
        folder.write("file", names(different, all));
        let loaded = folder.load(&DataConfig::new("csv:file"), Task::Regression).unwrap();
        assert_eq!(loaded.categories(), [("x".into(), different)]);
    }
    let refusal = folder.refuses("csv", names(1001, 2002), Task::Regression);
    assert_eq!(
        refusal,
        "file:1002: column `x`: `name 1000` is category 1001 of the column, which may have at most 1000; \
         set data.columns.x = \"ignore\" or { min_count = 10 }"
    );
    // Any column name is shown in the syntax of the run file.
    folder.write("file", names(9, 9).replacen('x', "full \"name\"", 1));
    let refusal = folder.refusal(&DataConfig::new("csv:file"), Task::Regression);
    assert!(refusal.contains(r#"set data.columns."full \"name\"" = "ignore""#), "{refusal}");
}

#[test]
fn declared_column_types_are_used() {
    let folder = Folder::new();
    let kinds = |kind| DataConfig { columns: columns([("x", kind)]), ..DataConfig::new("csv:file") };
    folder.write("file", "x,z,y\n7,1,0\n07,2,1\n7,3,2\n");
    let loaded = folder.load(&kinds(ColumnKind::Category), Task::Regression).unwrap();
    assert_eq!(loaded.feature_names, ["x=07", "x=7", "z"]);
    let loaded = folder.load(&kinds(ColumnKind::Ignore), Task::Regression).unwrap();
    assert_eq!((loaded.feature_names, loaded.train.features()), (vec!["z".to_string()], 1));
    // Other sources may contain an ignored column, but need not.
    folder.write("with", "x,z,y\n?,1,0\n").write("without", "y,z\n0,1\n");
    for test in ["csv:with", "csv:without"] {
        let config = DataConfig { test: Some(test.into()), ..kinds(ColumnKind::Ignore) };
        assert_eq!(folder.load(&config, Task::Regression).unwrap().test.unwrap().len(), 1, "{test}");
    }

    folder.write("file", "x,y\n1,0\n2,1\n\"1,5\",2\n");
    assert_eq!(
        folder.refusal(&kinds(ColumnKind::Number), Task::Regression),
        "file:4: column `x`: expected a number, found `1,5`"
    );
    let names: Vec<String> = (0..50).map(|number| format!("name {number}")).collect();
    folder.write("file", column(&names));
    let loaded = folder.load(&kinds(ColumnKind::Category), Task::Regression).unwrap();
    assert_eq!(loaded.categories(), [("x".into(), 50)]);
    assert_eq!(
        folder.refusal(&kinds(ColumnKind::Ignore), Task::Regression),
        "file: the file has no columns other than the label that are not ignored"
    );

    let other = |name: &str| {
        let columns = columns([(name, ColumnKind::Ignore)]);
        let error = folder.load(&DataConfig { columns, ..DataConfig::new("csv:file") }, Task::Regression);
        let error = error.unwrap_err();
        assert!(error.is_usage());
        error.to_string().replace(&format!("{}/", folder.path().display()), "")
    };
    assert_eq!(other("w"), "data.columns: file has no column `w`; did you mean `x`?");
    assert_eq!(
        other("y"),
        "data.columns: `y` is the label column, whose kind the model determines; remove it from data.columns"
    );
    for config in [
        DataConfig { columns: columns([("x", ColumnKind::Ignore)]), ..DataConfig::new("digits:10") },
        DataConfig { header: Some(true), ..DataConfig::new("digits:10") },
        DataConfig { missing_values: Some(Vec::new()), ..DataConfig::new("digits:10") },
    ] {
        let error = folder.load(&config, Task::Classes).unwrap_err();
        assert!(error.is_usage() && error.to_string().contains("it applies only to CSV sources"), "{error}");
    }
}

#[test]
fn missing_value_markers_default_to_those_of_pandas() {
    let folder = Folder::new();
    let config = |listed: Option<&[&str]>| DataConfig {
        missing: Missing::Mean,
        missing_values: listed.map(|listed| listed.iter().map(|text| text.to_string()).collect()),
        ..DataConfig::new("csv:file")
    };
    for text in ps_data::USUAL_MARKERS.into_iter().chain(["", "nan", "NAN", " N/A "]) {
        folder.write("file", format!("x,y\n2,0\n{text},1\n4,2\n"));
        let loaded = folder.load(&config(None), Task::Regression).unwrap();
        assert_eq!(row(&loaded.train, 1), [3.0], "{text}");
    }
    for (text, listed) in [("-", &["-"][..]), ("-999", &["n", " -999 "][..]), ("", &[][..])] {
        folder.write("file", format!("x,y\n2,0\n{text},1\n4,2\n"));
        let loaded = folder.load(&config(Some(listed)), Task::Regression).unwrap();
        assert_eq!(row(&loaded.train, 1), [3.0], "{text}");
    }
    for (text, listed) in [("-", None), ("NA", Some(&["-"][..])), ("nan", Some(&["NaN"][..]))] {
        folder.write("file", format!("x,y\n2,0\n{text},1\n4,2\n"));
        let refusal = folder.refusal(&config(listed), Task::Regression);
        let expected = format!("file:3: column `x`: expected a number, found `{text}`");
        assert!(refusal.starts_with(&expected), "{refusal}");
    }
    // As a string it is a category, unless the list contains it.
    folder.write("file", "x,y\nnone,0\nNone,1\nred,2\n");
    let loaded = folder.load(&config(Some(&[])), Task::Regression).unwrap();
    assert_eq!(loaded.categories(), [("x".into(), 3)]);
    folder.write("file", "x,y\n1,red\n2,None\n3,blue\n");
    assert_eq!(
        folder.refusal(&config(None), Task::Classes),
        "file:3: column `y`: the label is missing (`None`); remove the row or set data.skip_missing_target = true, or leave `None` out of \
         data.missing_values"
    );
    assert_eq!(folder.load(&config(Some(&[])), Task::Classes).unwrap().class_names, ["None", "blue", "red"]);
}

#[test]
fn inspect_shows_the_type_of_each_column_in_training() {
    let folder = Folder::new();
    let colours = ["red", "green", "blue"].into_iter().cycle();
    let rows = colours.zip(0..12).map(|(colour, row)| format!("{colour},{row},name {row},{},1\n", row % 2));
    folder.write("file", format!("colour,size,name,flag,y\n{}", rows.collect::<String>()));
    let config = DataConfig {
        columns: columns([("flag", ColumnKind::Category), ("size", ColumnKind::Ignore)]),
        ..DataConfig::new("")
    };
    let seen = inspect("csv:file", &config, folder.path()).unwrap();
    let becomes: Vec<&ColumnUse> = seen.columns.iter().map(|column| &column.becomes).collect();
    assert_eq!(becomes[..2], [&ColumnUse::Categories(3), &ColumnUse::Ignored]);
    assert!(matches!(becomes[2], ColumnUse::Refused(error) if error.contains("data.columns.name")));
    assert_eq!(becomes[3], &ColumnUse::Categories(2));
    assert_eq!(seen.columns[3].texts["0"], 6);
}

#[test]
fn labels_of_libsvm_files_are_numbers() {
    let folder = Folder::new();
    for (label, task) in
        [("spam", Task::Classes), ("1,2", Task::Classes), ("inf", Task::Binary), ("nan", Task::Regression)]
    {
        let refusal = folder.refuses("libsvm", format!("1 1:1\n{label} 1:2\n0 1:3\n"), task);
        assert_eq!(refusal, format!("file:2: label `{label}` is not a finite number"));
        assert!(inspect("libsvm:file", &DataConfig::new(""), folder.path()).is_err());
    }
}

#[test]
fn real_tables_need_no_key() {
    let Some(root) = shared() else { return };
    for (path, samples) in [
        ("adult/adult_train.csv", 32_561),
        ("adult/adult_test.csv", 16_281),
        ("breast-cancer/breast_cancer.csv", 569),
        ("california-housing/housing.csv", 20_640),
        ("diabetes/diabetes.csv", 442),
        ("digits/digits.csv", 1797),
        ("iris/iris.csv", 150),
        ("penguins/penguins.csv", 344),
    ] {
        let seen = inspect(&format!("csv:{path}"), &DataConfig::new(""), &root).unwrap();
        assert_eq!(seen.samples, samples, "{path}");
        let refused = seen.columns.iter().find(|column| matches!(column.becomes, ColumnUse::Refused(_)));
        assert_eq!(refused, None, "{path}");
    }
}
