//! Data files of every format, as training and as test data, through encoding and standardisation.

use crate::{Seed, Target, choice, part, with_length};
use flate2::Compression;
use flate2::write::GzEncoder;
use ps_core::Samples;
use ps_data::{
    ColumnConfig, ColumnKind, DataConfig, DataError, DatePart, Decimal, FORMATS, Fill, Loaded, Missing,
    Quantile, RowRange, Scale, Separator, Split, Task, Validation, load_from_memory,
};
use std::collections::BTreeMap;
use std::io::Write;

/// Returns a target for each format, named after the format's prefix.
///
/// # Panics
/// Panics if a format has no target.
pub(crate) fn targets() -> impl Iterator<Item = Target> {
    FORMATS.iter().map(|format| {
        let target = |run: fn(&[u8]), seeds: fn() -> Vec<Seed>| Target { name: format.prefix, run, seeds };
        match format.prefix {
            "idx" => target(idx, idx_seeds),
            "csv" => target(csv, csv_seeds),
            "libsvm" => target(libsvm, libsvm_seeds),
            "digits" => target(digits, digits_seeds),
            prefix => panic!("sources that begin with `{prefix}:` are not fuzzed: add a function and seeds"),
        }
    })
}

/// The input is a file of labels, then a file of images.
fn idx(input: &[u8]) {
    let (choice, rest) = choice(input);
    let (labels, images) = part(rest);
    let labelled = DataConfig::new("idx:images,labels");
    check(choice, labelled, &[("images", images), ("labels", labels)]);
}

/// The input is a training table, then, after a zero byte, a test table. A byte 1 before the first table is
/// followed by a byte that selects a dialect, and a byte 2 after that by one that selects settings of a
/// column.
fn csv(input: &[u8]) {
    let (choice, rest) = choice(input);
    let (dialect, rest) = match rest {
        [1, dialect, rest @ ..] => (*dialect, rest),
        _ => (0, rest),
    };
    let label = match choice >> 6 {
        0 => None,
        1 => Some("0"),
        2 => Some("-2"),
        _ => Some("label"),
    };
    let mut config = DataConfig { label: label.map(String::from), ..DataConfig::new("csv:train") };
    if choice & 32 != 0 {
        config.header = Some(false);
        config.columns = BTreeMap::from([("1".into(), ColumnKind::Category.into())]);
        config.missing_values = Some(vec!["-".into(), "0".into()]);
    }
    let list = |names: &[&str]| Some(names.iter().map(ToString::to_string).collect());
    if dialect & 1 != 0 {
        config.decimal = Decimal::Comma;
    }
    config.skip_missing_target = dialect & 2 != 0;
    if dialect & 4 != 0 {
        config.names = list(&["a", "b", "label"]);
    }
    match dialect & (8 | 16) {
        8 => config.drop = list(&["a"]),
        16 => config.only = list(&["b"]),
        24 => config.rows = Some(RowRange { begin: 1, end: None }),
        _ => {}
    }
    config.separator = match (dialect >> 5) & 3 {
        0 => None,
        1 => Some(Separator::Byte(b';')),
        2 => Some(Separator::Byte(b'\t')),
        _ => Some(Separator::Blanks),
    };
    if dialect & 128 != 0 {
        config.header = Some(true);
    }
    let (settings, rest) = match rest {
        [2, settings, rest @ ..] => (*settings, rest),
        _ => (0, rest),
    };
    if settings != 0 {
        config.columns.extend(columns(settings));
    }
    with_test(choice, config, rest);
}

/// Settings of the column `a`.
fn columns(settings: u8) -> BTreeMap<String, ColumnConfig> {
    let fills = [
        None,
        Some(Fill::Mean),
        Some(Fill::Median),
        Some(Fill::Constant(1.5)),
        Some(Fill::MostFrequent),
        Some(Fill::None),
    ];
    let fill = fills[usize::from(settings & 7) % fills.len()];
    let scale =
        [None, Some(Scale::MinMax), Some(Scale::None), Some(Scale::Standard)][usize::from(settings >> 6)];
    let quantiles = [0.1, 0.75].map(|q| Quantile::try_from(q).expect("a fraction with two decimals"));
    let column = ColumnConfig { fill, scale, ..ColumnConfig::default() };
    let column = match (settings >> 3) & 7 {
        0 => column,
        1 => ColumnConfig { clip: Some(quantiles), ..column },
        2 => ColumnConfig { min_count: Some(2), ..column },
        3 => ColumnConfig { parts: Some(DatePart::ALL.to_vec()), ..column },
        4 => ColumnConfig { format: Some("%d.%m.%y %I:%M %p".into()), ..column },
        5 => ColumnConfig { kind: Some(ColumnKind::Category), ..column },
        _ => ColumnConfig { kind: Some(ColumnKind::Ignore), ..ColumnConfig::default() },
    };
    BTreeMap::from([("a".into(), column)])
}

/// The input is a training file, then, after a zero byte, a test file.
fn libsvm(input: &[u8]) {
    let (choice, rest) = choice(input);
    if !is_only_slow(rest) {
        with_test(choice, DataConfig::new("libsvm:train"), rest);
    }
}

/// Whether a valid file would take gigabytes as a dense table, which would only slow down fuzzing.
fn is_only_slow(input: &[u8]) -> bool {
    let lines = input.iter().filter(|&&byte| byte == b'\n').count() + 1;
    let numbers = input.split(|byte| !byte.is_ascii_digit());
    let mut numbers = numbers.filter_map(|digits| std::str::from_utf8(digits).ok()?.parse::<usize>().ok());
    numbers.any(|number| number <= 1 << 24 && number.saturating_mul(lines) > 1 << 18)
}

/// The input is what follows `digits:`.
fn digits(input: &[u8]) {
    let (choice, rest) = choice(input);
    let Ok(text) = std::str::from_utf8(rest) else { return };
    let count = text.split(',').next().unwrap_or_default().trim();
    let is_slow = count.is_empty() || count.parse::<usize>().is_ok_and(|count| count > 16);
    if !is_slow {
        check(choice, DataConfig::new(format!("digits:{text}")), &[]);
    }
}

fn with_test(choice: u8, mut config: DataConfig, input: &[u8]) {
    let mut parts = input.splitn(2, |&byte| byte == 0);
    let train = parts.next().unwrap_or_default();
    let test = parts.next();
    config.test = test.map(|_| config.train.replace("train", "test"));
    check(choice, config, &[("train", train), ("test", test.unwrap_or_default())]);
}

/// Loads the files. If that succeeds, every row must be valid input for a model.
fn check(choice: u8, mut config: DataConfig, files: &[(&str, &[u8])]) {
    let task = match choice & 3 {
        0 => Task::Classes,
        1 => Task::Binary,
        2 => Task::Regression,
        _ => Task::Count,
    };
    config.standardize = choice & 4 != 0;
    config.missing = if choice & 8 == 0 { Missing::Refuse } else { Missing::Mean };
    config.validation = (choice & 16 != 0).then_some(Validation::Share(0.3));
    let files: BTreeMap<_, _> = files.iter().map(|(name, bytes)| (name.into(), bytes.to_vec())).collect();
    match load_from_memory(&config, task, 1, &files) {
        Ok(loaded) => {
            is_sound(&loaded, &loaded.train, config.standardize);
            loaded.validation.iter().for_each(|split| is_sound(&loaded, split, config.standardize));
            loaded.test.iter().for_each(|split| is_sound(&loaded, split, config.standardize));
        }
        Err(error) => check_error_message(&error),
    }
}

fn is_sound(loaded: &Loaded, split: &Split, standardized: bool) {
    let width = split.features();
    assert!(split.len() > 0 && width > 0 && width == loaded.feature_names.len());
    let mut row = vec![f32::NAN; width];
    for index in 0..split.len() {
        split.write_row(index, &mut row);
        // Numbers near the limits of binary32 may overflow in standardisation.
        assert!(standardized || row.iter().all(|value| value.is_finite()), "row {index}: {row:?}");
        let target = split.target(index);
        let fits = match loaded.task {
            Task::Classes | Task::Binary => {
                target.fract() == 0.0 && (target as usize) < loaded.class_names.len()
            }
            Task::Count => target >= 0.0,
            Task::Regression => true,
        };
        assert!(target.is_finite() && fits, "target {target} of sample {index}");
    }
}

/// An error is a single line about the input.
fn check_error_message(error: &DataError) {
    let text = error.to_string();
    let is_about_the_input =
        ["images", "labels", "train", "test", "digits:", "data."].iter().any(|place| text.contains(place));
    assert!(is_about_the_input && !matches!(error, DataError::File { .. }), "{text}");
}

fn idx_seeds() -> Vec<Seed> {
    let labels = [&[0, 0, 8, 1, 0, 0, 0, 4][..], &[0, 1, 2, 1]].concat();
    let pixels: Vec<u8> = (0..24).map(|index| index * 10).collect();
    let images = [&[0, 0, 8, 3, 0, 0, 0, 4, 0, 0, 0, 2, 0, 0, 0, 3][..], &pixels].concat();
    let flat = [&[0, 0, 8, 2, 0, 0, 0, 4, 0, 0, 0, 6][..], &pixels].concat();
    let huge = [&[0, 0, 8, 4][..], &[0xff; 16], &pixels].concat();
    let both =
        |choice: u8, labels: &[u8], images: &[u8]| [&[choice][..], &with_length(labels), images].concat();
    let two_gz = [gz(&images[..20]), gz(&images[20..])].concat();
    vec![
        ("plain", both(0, &labels, &images)),
        ("standardized-with-validation", both(4 | 16, &labels, &images)),
        ("regression", both(2, &labels, &flat)),
        ("gz", both(0, &gz(&labels), &gz(&images))),
        ("gz-of-two-members", both(0, &labels, &two_gz)),
        ("gz-cut", both(0, &labels, &gz(&images)[..30])),
        ("huge", both(0, &labels, &huge)),
        ("huge-gz", both(0, &labels, &gz(&huge))),
    ]
}

fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    let written = encoder.write_all(bytes).and_then(|()| encoder.finish());
    written.expect("memory takes everything")
}

fn csv_seeds() -> Vec<Seed> {
    let with = |choice: u8, text: &str| [&[choice][..], text.as_bytes()].concat();
    vec![
        ("classes", with(0, "a,b,label\n1,x,yes\n2.5,y,no\n-3e2,x,yes\n")),
        ("test", with(0xc0, "label,b\nu,1\nv,2\n\0label,b\nv,-0.5\nu,7\n")),
        ("missing", with(8 | 4, "a,b,c\n1,,u\n?,y,v\nNA,x,u\n4,y,v\n")),
        ("regression", with(2 | 16 | 0x40, "y,\"a b\",c\r\n1,\"2\",3\r\n\r\n4,\"5\",6\r\n7,8,9\r\n")),
        ("count", with(3, "\u{feff}a,n\n1,0\n2,3\n")),
        ("binary-numbers", with(1 | 0x80, "a,l,b\n1,+1,2\n3,-1,4\n5,1.0,6\n")),
        ("ragged", with(0, "a,b\n1,2,3\n")),
        ("open-quote", with(0, "a,b\n\"1,2\n")),
        ("large", with(2, "a,y\n3.4e38,1e39\n")),
        ("no-header", with(0x20 | 8 | 2, "1.5,u,3\n-,v,4\n0,u,5\n\x002,v,6\n")),
        ("numbers-in-disguise", with(0, "a,b\n\"1,200\",u\n\"3,4\",v\n12%,u\n")),
        ("nearly-all-different", with(2, "a,y\nu,1\nv,2\nw,3\nx,4\ny,5\n")),
        ("semicolons", with(2, "# by hand\na;b;y\n1;2;3\n4;5;6\n")),
        ("decimal-commas", with(2, "\x01\x01a;y\n1,5;2\n,5;1e-3\n")),
        ("names-and-blanks", with(2 | 0xc0, "\x01\x64 1 \x20 2 3\n4 \"5\" 6 \n")),
        ("clip-and-median", with(2, "\x02\x4aa,y\n1,2\n,3\n-7,4\n9,5\n\x00a,y\n1e9,1\n,2\n")),
        ("rare-strings", with(2, "\x02\x14a,y\nu,2\nv,3\nu,4\n,5\n\x00a,y\nw,1\n")),
        ("dates", with(2 | 4, "\x02\x1aa,y\n2024-02-29,2\n,3\n1999-12-31 23:59:59.5Z,4\n")),
        ("dates-by-pattern", with(2, "\x02\x20a,y\n1.2.99 12:00 AM,2\n31.12.00 1:05 pm,3\n")),
        ("two-separators", with(2, "a;b,y\nc;d,e\n")),
        ("rows-and-gaps", with(2, "\x01\x1aa,y\n1,2\n3,\n5,6\n\x00a,y\n7,NA\n8,9\n")),
        ("full-stops", with(0, "a,y\n1,u\n2,v\n\x00a,y\n3,u.\n4,v.\n")),
        ("quotes", with(2, "a,y\n\"u\"\"v\" ,1\n\"w\"x,2\n")),
    ]
}

fn libsvm_seeds() -> Vec<Seed> {
    let with = |choice: u8, text: &str| [&[choice][..], text.as_bytes()].concat();
    vec![
        ("classes", with(1, "+1 1:0.5 3:2\n-1 2:1e-3 # said\n\n+1 3:-7\n")),
        ("test", with(4, "7 1:1 2:2\n-2 1:3\n\0-2 2:1\n7 1:2\n")),
        ("text-as-label", with(0, "7 1:1\nspam 1:3\n")),
        ("regression", with(2 | 16, "0.25 1:1\n3 2:2\n-1 1:1 2:1\n")),
        ("descending", with(0, "1 2:1 1:1\n")),
        ("beyond-memory", with(2, "1 4294967295:1\n")),
        ("beyond-the-index", with(2, "1 4294967296:1\n")),
        ("no-label", with(0, "1:1\n")),
    ]
}

fn digits_seeds() -> Vec<Seed> {
    let with = |choice: u8, text: &str| [&[choice][..], text.as_bytes()].concat();
    vec![
        ("plain", with(0, "10")),
        ("standardized-with-validation", with(4 | 16, "12,seed=7")),
        ("one", with(2 | 16, "1")),
        ("none", with(0, "0")),
        ("beyond-the-limit", with(0, "10000001")),
        ("unknown-option", with(0, "5,count=3")),
        ("seed-beyond-u64", with(0, "5,seed=18446744073709551616")),
    ]
}
