//! New data need not look like the training data.

use crate::common::{Folder, UNLABELLED, row};
use ps_data::{DataConfig, Encoder, NewData, NoProgress, RowBlocks, RowFormat, Task};

const TRAIN: &str = "colour,size,id,kind\nred,1,a,cat\nblue,2,b,dog\nred,3,c,cat\n";

fn config() -> DataConfig {
    DataConfig {
        columns: [("id".to_owned(), ps_data::ColumnKind::Ignore.into())].into(),
        ..DataConfig::new("csv:train")
    }
}

fn encoder(folder: &Folder) -> Encoder {
    folder.write("train", TRAIN).load(&config(), Task::Classes).unwrap().encoder()
}

#[test]
fn unused_columns_are_ignored_and_unseen_categories_count_as_none_of_the_known_ones() {
    let folder = Folder::new();
    let encoder = encoder(&folder);
    folder.write("new", "g,f,e,d,size,c,colour,b\n,,,,1,,green,\n,,,,2,,blue,\n,,,,3,,Red,\n");
    let load = |new| encoder.load("csv:new", new, folder.path(), &NoProgress);
    let split = load(UNLABELLED).unwrap();
    assert_eq!(
        [0, 1, 2].map(|index| row(&split, index)),
        [[0.0, 0.0, 1.0], [1.0, 0.0, 2.0], [0.0, 0.0, 3.0]]
    );
    assert_eq!(
        split.dataset().all_notes(),
        [
            "csv:new: ignored columns that the model does not use: `g`, `f`, `e`, `d`, `c` and 1 more",
            "csv:new: column `colour`: 2 cells contain a category that is not in the training data, such as `green`; \
             it counts as none of the known categories"
        ]
    );
    let strict = |content: &str| {
        folder.write("new", content);
        let error = load(NewData { is_strict: true, ..UNLABELLED }).unwrap_err().to_string();
        error.replace(&format!("{}/", folder.path().display()), "")
    };
    assert_eq!(
        strict("sizes,size,colour\n0,1,red\n"),
        "new:1: column `sizes` does not occur in the training data; did you mean `size`?"
    );
    assert_eq!(
        strict("size,colour\n1,red\n2,bleu\n"),
        "new:3: column `colour`: category `bleu` does not occur in the training data; did you mean `blue`?"
    );
}

#[test]
fn a_test_source_may_contain_unseen_categories_but_no_other_columns() {
    let folder = Folder::new();
    folder.write("train", TRAIN).write("test", "colour,size,kind\ngreen,1,cat\nred,2,dog\n");
    let config = DataConfig { test: Some("csv:test".into()), ..config() };
    let loaded = folder.load(&config, Task::Classes).unwrap();
    assert_eq!(row(loaded.test.as_ref().unwrap(), 0), [0.0, 0.0, 1.0]);
    let notes: Vec<String> = loaded.notes().collect();
    assert!(notes.len() == 1 && notes[0].contains("1 cell contains a category"), "{notes:?}");
    folder.write("test", "colour,siz,size,kind\nred,1,1,cat\n");
    assert_eq!(
        folder.refusal(&config, Task::Classes),
        "test:1: column `siz` does not occur in the training data; did you mean `size`?"
    );
}

/// The sizes of the blocks, the first features and the kept cells of all rows that are read, and the error at the end.
type Rows = (usize, Vec<f32>, Vec<String>, Result<Vec<String>, String>);

fn blocks(encoder: &Encoder, content: &str, format: RowFormat, keep: &[&str], new: NewData) -> Rows {
    let keep = keep.iter().map(|name| (*name).to_owned()).collect();
    let mut blocks = match RowBlocks::new(encoder.clone(), content.as_bytes(), "in", format, keep, new) {
        Ok(blocks) => blocks,
        Err(error) => return (0, Vec::new(), Vec::new(), Err(error.to_string())),
    };
    let (mut count, mut first, mut kept) = (0, Vec::new(), Vec::new());
    loop {
        match blocks.next_block() {
            Ok(Some(block)) => {
                count += 1;
                first.extend(
                    (0..ps_core::Samples::len(&block.split)).map(|index| row(&block.split, index)[2]),
                );
                kept.extend(block.kept.into_iter().flat_map(|column| column.cells));
            }
            Ok(None) => return (count, first, kept, Ok(blocks.notes())),
            Err(error) => return (count, first, kept, Err(error.to_string())),
        }
    }
}

#[test]
fn rows_are_read_in_blocks_that_end_between_rows() {
    let folder = Folder::new();
    let encoder = encoder(&folder);
    let line = |number: usize| format!("{number},\"re\nd\"\"\",\"x,{number}\"\n");
    let many: String = (0..300_000).map(line).collect();
    let (count, first, kept, end) =
        blocks(&encoder, &format!("size,colour,key\n{many}"), RowFormat::Csv, &["key"], UNLABELLED);
    assert!(count > 3 && first.iter().enumerate().all(|(row, &value)| value == row as f32), "{count}");
    assert!(kept.iter().enumerate().all(|(row, cell)| *cell == format!("x,{row}")));
    let notes = end.unwrap();
    assert!(notes.len() == 1 && notes[0].starts_with("in: column `colour`: 300000 cells"), "{notes:?}");

    let line = |number: usize| {
        format!("{{\"size\": {number}, \"colour\": \"red\", \"key\": [{number}], \"x\": null}}\n")
    };
    let many: String = (0..50_000).map(line).collect();
    let (count, first, kept, end) = blocks(&encoder, &many, RowFormat::JsonLines, &["key"], UNLABELLED);
    assert!(count > 1 && first.len() == 50_000 && kept[7] == "[7]", "{count}");
    assert_eq!(end.unwrap(), ["in: ignored columns that the model does not use: `x`"]);
}

#[test]
fn all_rows_before_an_error_are_read_and_the_error_names_its_line() {
    let folder = Folder::new();
    let encoder = encoder(&folder);
    let csv = |bad: &str, keep: &[&str], is_strict| {
        let rows: String = (0..1000).map(|row| format!("red,{row}\n")).collect();
        let content = format!("colour,size\n{rows}{bad}\nred,1\n");
        let (_, first, _, end) =
            blocks(&encoder, &content, RowFormat::Csv, keep, NewData { is_strict, is_labelled: false });
        (first.len(), end.unwrap_err())
    };
    let at = |what: &str| (1000, format!("in:1002: {what}"));
    assert_eq!(csv("red,x", &[], false), at("column `size`: expected a number, found `x`"));
    assert_eq!(csv("red,1,2", &[], false), at("expected 2 cells, as in the header, found 3"));
    assert_eq!(
        csv("bleu,1", &[], true),
        at("column `colour`: category `bleu` does not occur in the training data; did you mean `blue`?")
    );
    assert_eq!(csv("\"a\"b,1", &[], false).0, 1000);
    assert_eq!(
        csv("red,1", &["id"], false),
        (0, "in:1: column `id`, which is to be kept, is missing".into())
    );

    let json = |bad: &str, is_strict| {
        let rows: String = (0..1000).map(|row| format!("{{\"size\":{row},\"colour\":\"red\"}}\n")).collect();
        let content = format!("{rows}\n{bad}\n{rows}");
        let new = NewData { is_strict, is_labelled: false };
        let (_, first, _, end) = blocks(&encoder, &content, RowFormat::JsonLines, &[], new);
        (first.len(), end.unwrap_err())
    };
    assert_eq!(json("{\"size\": 1}", false), at("column `colour`, which the training data has, is missing"));
    assert_eq!(
        json("{\"size\": \"x\", \"colour\": \"red\"}", false),
        at("column `size`: expected a number, found `x`")
    );
    assert_eq!(
        json("{\"size\": {}, \"colour\": \"red\"}", false),
        at("column `size`: expected a number or a string, found `{}`")
    );
    assert_eq!(json("[1]", false).0, 1000);
    assert_eq!(
        json("{\"size\": 1, \"colour\": \"red\", \"hue\": 1}", true),
        at("column `hue` does not occur in the training data")
    );
}

#[test]
fn a_header_must_have_the_columns_of_the_model() {
    let folder = Folder::new();
    let encoder = encoder(&folder);
    let end = |content: &str| blocks(&encoder, content, RowFormat::Csv, &[], UNLABELLED).3;
    assert_eq!(
        end("colour\nred\n").unwrap_err(),
        "in:1: column `size`, which the training data has, is missing; cells are separated by commas"
    );
    assert_eq!(end("").unwrap_err(), "in: the file is empty");
    assert_eq!(end("colour,size\n").unwrap(), Vec::<String>::new());
    assert_eq!(
        end("# a comment\ncolour;size\nred;1\n").unwrap(),
        ["in: cells are separated by semicolons", "in: skipped 1 lines of comments"]
    );
}
