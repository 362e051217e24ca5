//! Invalid files are refused with position and value, and never cause a panic.

use crate::common::{Folder, LABELLED, UNLABELLED, gz, idx, row};
use ps_data::{DataConfig, Missing, Task, Validation};

fn images() -> Vec<u8> {
    idx(&[3, 2, 2], &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11])
}

fn refusal_of_idx(images: &[u8], labels: &[u8], task: Task) -> String {
    let folder = Folder::new();
    folder.write("images", images).write("labels", labels);
    folder.refusal(&DataConfig::new("idx:images,labels"), task)
}

#[test]
fn idx_headers_and_sizes_are_checked() {
    let labels = idx(&[3], &[0, 1, 2]);
    let refusal = |images: &[u8]| refusal_of_idx(images, &labels, Task::Classes);
    assert_eq!(refusal(&[]), "images: the file is empty");
    assert_eq!(refusal(&[0, 0, 8]), "images: the file ends after 3 bytes, in the middle of its header");
    assert_eq!(refusal(&images()[..10]), "images: the file ends after 10 bytes, in the middle of its header");
    assert_eq!(
        refusal(b"not an idx file"),
        "images: expected the magic number 0x00000803 (images as bytes), found 0x6e6f7420; this is not an \
         IDX file"
    );
    assert_eq!(
        refusal(&labels),
        "images: expected the magic number 0x00000803 (images as bytes), found 0x00000801; this is a labels \
         file, but images come first: idx:IMAGES,LABELS"
    );
    assert_eq!(
        refusal(&images()[..26]),
        "images: shape [3, 2, 2] in the header needs 12 bytes, but 10 can follow; the file is truncated, or \
         its header is wrong"
    );
    // Headers that claim 2^96 and 2^62 bytes. No memory is allocated for either.
    assert!(refusal(&idx(&[u32::MAX; 3], &[])).ends_with("is larger than any memory"));
    assert!(refusal(&idx(&[1 << 31, 1 << 31], &[])).contains("needs 4611686018427387904 bytes, but 0 can"));
    assert!(refusal(&gz(&idx(&[1 << 31, 1 << 31], &[]))).contains("bytes, but at most "));
    let mut longer = images();
    longer.extend([1, 2, 3]);
    assert_eq!(refusal(&longer), "images: 3 bytes follow the 12 bytes of shape [3, 2, 2] in the header");
    assert_eq!(refusal(&gz(&longer)), "images: 3 bytes follow the 12 bytes of shape [3, 2, 2] in the header");
    assert_eq!(
        refusal(&idx(&[0, 2, 2], &[])),
        "labels: the file contains 3 labels, but images contains 0 \
                                                images"
    );
    assert!(refusal(&idx(&[3, 0, 2], &[])).ends_with("contains no pixels"));
}

/// For each kind of file that is not regular, a path in `folder` and the kind's name in errors.
#[cfg(unix)]
fn irregular(folder: &Folder) -> Vec<(&'static str, &'static str)> {
    let made = std::process::Command::new("mkfifo").arg(folder.path().join("pipe")).status().unwrap();
    assert!(made.success());
    // The socket's file remains when the socket is closed.
    std::os::unix::net::UnixListener::bind(folder.path().join("socket")).unwrap();
    std::os::unix::fs::symlink("/dev/zero", folder.path().join("zeros")).unwrap();
    vec![("pipe", "a pipe"), ("socket", "a socket"), ("zeros", "a device")]
}

#[cfg(unix)]
#[test]
fn only_regular_files_are_read() {
    let folder = Folder::new();
    folder.write("images", images());
    for (name, what) in irregular(&folder) {
        for source in ["csv:NAME", "libsvm:NAME", "idx:NAME", "idx:images,NAME"] {
            let config = DataConfig::new(source.replace("NAME", name));
            let expected = format!(
                "{name}: this is {what}, not a regular file; to read standard input, use `-` instead of the path"
            );
            assert_eq!(folder.refusal(&config, Task::Classes), expected);
        }
    }
    for source in ["csv:.", "libsvm:.", "idx:."] {
        let refusal = folder.refusal(&DataConfig::new(source), Task::Classes);
        assert!(refusal.ends_with("this is a directory, not a file"), "{refusal}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn data_that_does_not_fit_into_memory_is_refused_with_the_available_size() {
    let folder = Folder::new();
    std::fs::File::create(folder.path().join("file")).unwrap().set_len(1 << 42).unwrap();
    for source in ["csv:file", "libsvm:file"] {
        let refusal = folder.refusal(&DataConfig::new(source), Task::Classes);
        assert!(refusal.starts_with("file: the file has 4.0 TiB; at most "), "{refusal}");
        assert!(refusal.contains(" GiB can be read, half of the "), "{refusal}");
    }
    // The stream is too short for what its header claims, but short gzip streams can expand that far.
    let claim = gz(&[idx(&[1 << 22, 1 << 11, 1 << 9], &[]), vec![0; 1 << 23]].concat());
    std::fs::write(folder.path().join("file"), &claim).unwrap();
    std::fs::File::options().write(true).open(folder.path().join("file")).unwrap().set_len(1 << 33).unwrap();
    let refusal = folder.refusal(&DataConfig::new("idx:file"), Task::Classes);
    assert!(refusal.contains("[4194304, 2048, 512] in the header needs 4.0 TiB; at most "), "{refusal}");
}

#[test]
fn only_formats_that_read_standard_input_mention_it() {
    let folder = Folder::new();
    folder.write("labels", []);
    for source in ["idx:-", "idx:-,labels", "idx:images, -"] {
        let refusal = folder.refusal(&DataConfig::new(source), Task::Classes);
        assert!(refusal.contains("only csv:- and libsvm:- read standard input"), "{refusal}");
    }
    // A file named `-` can be given with another path.
    assert!(folder.refusal(&DataConfig::new("csv:./-"), Task::Classes).contains("No such file"));
}

#[test]
fn damaged_gzip_streams_are_refused() {
    let labels = idx(&[3], &[0, 1, 2]);
    let whole = gz(&images());
    for length in 2..whole.len() {
        let refusal = refusal_of_idx(&whole[..length], &labels, Task::Classes);
        assert!(refusal.starts_with("images: "), "{length}: {refusal}");
        assert!(refusal.contains("truncated"), "{length}: {refusal}");
    }
    let mut damaged = whole.clone();
    let checksum = damaged.len() - 6;
    damaged[checksum] ^= 1;
    let refusal = refusal_of_idx(&damaged, &labels, Task::Classes);
    assert!(refusal.starts_with("images: the gzip stream is corrupt after 28 bytes of content"), "{refusal}");
    let mut trailing = whole;
    trailing.extend(b"xyz");
    let refusal = refusal_of_idx(&trailing, &labels, Task::Classes);
    assert!(refusal.starts_with("images: "), "{refusal}");
}

#[test]
fn labels_must_fit_images_and_classes() {
    let refusal = |labels: &[u8], task| refusal_of_idx(&images(), &idx(&[labels.len() as u32], labels), task);
    assert_eq!(
        refusal(&[0, 1], Task::Classes),
        "labels: the file contains 2 labels, but images contains 3 \
                                                 images"
    );
    assert_eq!(
        refusal(&[0, 1, 9], Task::Classes),
        "labels: item 2: label 9 is out of range: labels must be 0, 1, 2, … without gaps, but 2 does not \
         occur"
    );
    assert_eq!(
        refusal(&[0, 1, 2], Task::Binary),
        "labels: the model needs exactly two classes, but the labels have 3 (0, 1, 2); for more than two \
         classes, use softmax"
    );
    assert!(refusal(&[0, 0, 0], Task::Classes).contains("needs at least two classes"));

    let folder = Folder::new();
    folder
        .write("images", images())
        .write("labels", idx(&[3], &[0, 1, 0]))
        .write("more", idx(&[3], &[1, 5, 0]));
    let config = DataConfig { test: Some("idx:images,more".into()), ..DataConfig::new("idx:images,labels") };
    assert_eq!(
        folder.refusal(&config, Task::Classes),
        "more: item 1: label 5 is out of range: the classes of the training data are 0 to 1"
    );
    folder.write("wide", idx(&[3, 2, 1], &[0; 6]));
    let config = DataConfig { test: Some("idx:wide,labels".into()), ..config };
    assert_eq!(
        folder.refusal(&config, Task::Classes),
        "wide: the file contains images of 2x1, but the training data images of 2x2"
    );
    assert!(folder.refusal(&DataConfig::new("idx:images"), Task::Classes).contains("use idx:IMAGES,LABELS"));
}

#[test]
fn csv_errors_name_the_exact_location() {
    let folder = Folder::new();
    let refusal = |content: &str| folder.refuses("csv", content, Task::Regression);
    assert_eq!(refusal(""), "file: the file is empty");
    assert_eq!(refusal("x,y\n"), "file: the file contains a header but no rows");
    assert_eq!(refusal("\n\n"), "file: the file contains no rows");
    assert_eq!(refusal("x,x\n1,2\n"), "file:1: column 1 has the same name as an earlier column, `x`");
    assert_eq!(refusal("x,y\n1,2\n3,4,5\n"), "file:3: expected 2 cells, as in the header, found 3");
    assert_eq!(refusal("x,y\r\n1,2\r\n\r\n3\r\n"), "file:4: expected 2 cells, as in the header, found 1");
    assert_eq!(refusal("y\n1\n"), "file: the file has no columns other than the label");
    assert_eq!(
        refusal("x,y\n1,2\n,3\n"),
        "file:3: column `x`: missing value (an empty cell); remove the row or set data.missing = \"mean\""
    );
    for word in ["?", "NA", "NaN", "nan", " ? "] {
        let refusal = refusal(&format!("x,y\n1,2\n{word},3\n"));
        assert!(
            refusal.starts_with(&format!("file:3: column `x`: missing value (`{}`)", word.trim())),
            "{refusal}"
        );
    }
    assert_eq!(
        refusal("x,y\n1,2\n-inf,3\n"),
        "file:3: column `x`: `-inf` is infinite or too large for a 32-bit float"
    );
    assert!(refusal("x,y\n1,2\n1e39,3\n").starts_with("file:3: column `x`: `1e39` is infinite or too large"));
    assert_eq!(
        refusal("x,y\n1,2\n2,abc\n"),
        "file:3: column `y`: invalid target: expected a number, found `abc`"
    );
    assert_eq!(
        refusal("x,y\n1,2\n2,\n"),
        "file:3: column `y`: the label is missing; remove the row or set data.skip_missing_target = true"
    );
    assert_eq!(refusal("x,y\n1,2\n2,inf\n"), "file:3: column `y`: label `inf` is not finite");
    // A quoted cell may contain a line break; line numbers are still those of the file.
    assert_eq!(refusal("x,y\n\"a\nb\",2\nc\n"), "file:4: expected 2 cells, as in the header, found 1");
    let refusal = folder.refuses("csv", b"x,y\n1,2\n\xff\xfe,1\n", Task::Regression);
    assert_eq!(refusal, "file:3: cell 0 of the line is not valid UTF-8; convert the file");
    let refusal = folder.refuses("csv", "x,y\n1,2\n1,-3\n", Task::Count);
    assert_eq!(refusal, "file:3: column `y`: the target -3 is negative; counts start at 0");
}

#[test]
fn other_csv_files_must_match_the_training_data() {
    let folder = Folder::new();
    folder.write("train", "colour,size,kind\nred,1,cat\nblue,2,dog\nred,3,cat\n");
    let config = |test: &str| {
        folder.write("test", test);
        DataConfig { test: Some("csv:test".into()), ..DataConfig::new("csv:train") }
    };
    let refusal = |test: &str| folder.refusal(&config(test), Task::Classes);
    assert_eq!(
        refusal("colour,size,kind\nred,1,cats\n"),
        "test:2: column `kind`: label `cats` does not occur in the training data; did you mean `cat`?"
    );
    assert_eq!(
        refusal("colour,size,kind\nred,large,cat\n"),
        "test:2: column `size`: expected a number, found `large`"
    );
    assert_eq!(
        refusal("colour,kind\nred,cat\n"),
        "test:1: column `size`, which the training data has, is \
                                                   missing"
    );
    assert_eq!(refusal("colour,size\nred,1\n"), "test:1: the label column `kind` is missing");
    assert_eq!(
        refusal("colour,siz,kind\nred,1,cat\n"),
        "test:1: column `siz` does not occur in the training data; did you mean `size`?"
    );
    let other = DataConfig { test: Some("digits:10".into()), ..DataConfig::new("csv:train") };
    assert_eq!(
        folder.refusal(&other, Task::Classes),
        "source `digits:10`: it must be of the same kind as the training data, which is a csv: source"
    );

    let loaded = folder.load(&DataConfig::new("csv:train"), Task::Classes).unwrap();
    folder.write("new", "size,colour\n5,blue\n");
    let like = |name| loaded.encoder().load(name, LABELLED, folder.path(), &ps_data::NoProgress);
    assert!(like("csv:new").unwrap_err().to_string().ends_with("the label column `kind` is missing"));
    let split = loaded.encoder().load("csv:new", UNLABELLED, folder.path(), &ps_data::NoProgress).unwrap();
    assert!(!split.has_targets());
    assert_eq!(row(&split, 0), [1.0, 0.0, 5.0]);
}

#[test]
fn libsvm_errors_name_the_exact_location() {
    let folder = Folder::new();
    let refusal = |content: &str| folder.refuses("libsvm", content, Task::Regression);
    assert_eq!(refusal(""), "file: the file contains no rows");
    assert_eq!(refusal("# only a comment\n\n"), "file: the file contains no rows");
    assert_eq!(refusal("1 1:1\n# x\n2 0:1\n"), "file:3: index 0 in `0:1`: indices start at 1");
    assert_eq!(
        refusal("1 3:1 2:1\n"),
        "file:1: index 2 in `2:1` is not above the previous one (3); indices must be in ascending order"
    );
    assert_eq!(
        refusal("1 2:1 2:5\n"),
        "file:1: index 2 in `2:5` is repeated (2); indices must be in \
                                        ascending order"
    );
    assert_eq!(refusal("1 1:1 x\n"), "file:1: expected index:value, found `x`");
    assert_eq!(
        refusal("1 -1:1\n"),
        "file:1: `-1` in `-1:1` is not an index: expected an integer of at \
                                     least 1"
    );
    assert_eq!(refusal("1 1:a\n"), "file:1: index 1: expected a number, found `a`");
    assert_eq!(refusal("1 1:nan\n"), "file:1: index 1: `nan` is not a finite number");
    assert_eq!(refusal("1 1:inf\n"), "file:1: index 1: `inf` is infinite or too large for a 32-bit float");
    assert_eq!(refusal("1 1:1\n2:1\n"), "file:2: expected a label before the index:value pairs");
    assert_eq!(refusal("one 1:1\n"), "file:1: label `one` is not a finite number");
    assert_eq!(refusal("1\n2\n"), "file: the file contains no index:value pairs");
    assert!(refusal("1 4000000000:1\n2 1:1\n3 1:1\n").contains("too many for a dense table"));
    let refusal = folder.refuses("libsvm", b"1 1:1\n\xff\n", Task::Regression);
    assert!(refusal.starts_with("file:2: the line is not valid UTF-8"), "{refusal}");

    folder
        .write("train", "-1 1:1 2:1\n+1 2:1\n")
        .write("test", "1 1:1 3:1\n")
        .write("other", "1 1:1\n\n2 2:1\n");
    let config = |test: &str| DataConfig { test: Some(test.into()), ..DataConfig::new("libsvm:train") };
    assert_eq!(
        folder.refusal(&config("libsvm:test"), Task::Binary),
        "test:1: index 3 is out of range: the training data has 2 features"
    );
    assert_eq!(
        folder.refusal(&config("libsvm:other"), Task::Binary),
        "other:3: label `2` does not occur in the training data; the closest known label is `1`"
    );
}

#[test]
fn invalid_options_and_sources_are_usage_errors() {
    let folder = Folder::new();
    folder.write("table", "x,y\n1,2\n3,4\n");
    let table = || DataConfig::new("csv:table");
    let share = |share| DataConfig { validation: Some(Validation::Share(share)), ..table() };
    let label = |label: &str| DataConfig { label: Some(label.into()), ..table() };
    for (config, expected) in [
        (DataConfig::new("table"), "source `table`: the format is missing; use idx:"),
        (DataConfig::new("tsv:table"), "source `tsv:table`: unknown format `tsv`"),
        (DataConfig::new("csv:"), "source `csv:`: expected a path after `csv:`"),
        (
            DataConfig::new("digits:0"),
            "source `digits:0`: expected a number of drawings from 1 to 10000000, found `0`",
        ),
        (DataConfig::new("digits:5,7"), "source `digits:5,7`: expected seed=N, found `7`"),
        (share(0.0), "data.validation: expected a share above 0 and below 1, found 0"),
        (share(1.5), "data.validation: expected a share above 0 and below 1, found 1.5"),
        (share(f64::NAN), "data.validation: expected a share above 0 and below 1, found NaN"),
        (share(0.9), "data.validation: a share of 0.9 of the 2 samples of `csv:table` leaves no"),
        (label("z"), "data.label: table has no column `z`; did you mean `"),
        (label("2"), "data.label: table has no column 2; it has 2 columns"),
        (label("-3"), "data.label: table has no column -3"),
        (
            DataConfig { label: Some("y".into()), ..DataConfig::new("digits:10") },
            "data.label: it applies only to CSV",
        ),
    ] {
        let error = folder.load(&config, Task::Regression).expect_err("this should be refused");
        let text = error.to_string().replace(&format!("{}/", folder.path().display()), "");
        assert!(text.starts_with(expected), "{text}");
        assert!(error.is_usage(), "{text}");
    }
    let missing = folder.load(&DataConfig::new("csv:nowhere"), Task::Regression).unwrap_err();
    assert!(missing.to_string().contains("nowhere: No such file") && !missing.is_usage());
    let nothing = DataConfig { missing: Missing::Mean, ..DataConfig::new("csv:hollow") };
    folder.write("hollow", "x,y\n?,1\n,2\n");
    assert_eq!(
        folder.refusal(&nothing, Task::Regression),
        "csv:hollow: all cells of column `x` are missing in the training part"
    );
}

/// Changes, removes or doubles every byte of a small valid file in turn. Reading must end with data
/// or an error.
#[test]
fn damaged_input_never_panics() {
    let folder = Folder::new();
    let table = "\"a\",b,y\r\n1,x,0\n?,\"y\"\"z\",1\n3,x,2\n".as_bytes().to_vec();
    let sparse = b"-1 1:1 3:0.5 # c\n+1 2:1e3\n".to_vec();
    folder.write("labels", idx(&[3], &[0, 1, 1]));
    for (source, content) in [
        ("csv:file", table),
        ("libsvm:file", sparse),
        ("idx:file,labels", images()),
        ("idx:file,labels", gz(&images())),
    ] {
        let config = DataConfig { missing: Missing::Mean, standardize: true, ..DataConfig::new(source) };
        for place in 0..content.len() {
            for change in [0, b'"', b'\n', b',', b':', b'9', 0x80, 0xff] {
                let mut damaged = content.clone();
                damaged[place] = change;
                folder.write("file", &damaged);
                let _ = folder.load(&config, Task::Classes);
                let _ = ps_data::inspect(source, &config, folder.path());
            }
            let mut shorter = content.clone();
            shorter.remove(place);
            folder.write("file", &shorter);
            let _ = folder.load(&config, Task::Regression);
            folder.write("file", &content[..place]);
            let _ = folder.load(&config, Task::Count);
        }
    }
}
