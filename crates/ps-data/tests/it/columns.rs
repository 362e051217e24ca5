//! The settings of single columns: kinds, bounds, values for missing cells, scales, and rare categories.

use crate::common::{Folder, LABELLED, row};
use ps_core::Samples;
use ps_data::{
    ColumnConfig, ColumnKind, DataConfig, DatePart, Fill, Loaded, Missing, NoProgress, Quantile, Scale,
    Split, Task, Validation,
};

fn clip(low: f64, high: f64) -> Option<[Quantile; 2]> {
    Some([low, high].map(|quantile| Quantile::try_from(quantile).unwrap()))
}

fn with<const N: usize>(columns: [(&str, ColumnConfig); N]) -> DataConfig {
    let columns = columns.into_iter().map(|(name, column)| (name.to_owned(), column)).collect();
    DataConfig { columns, ..DataConfig::new("csv:file") }
}

fn none() -> ColumnConfig {
    ColumnConfig::default()
}

fn load(folder: &Folder, config: &DataConfig) -> Loaded {
    folder.load(config, Task::Regression).unwrap()
}

/// All values of a feature, in bits so that -0 differs from 0.
fn feature(split: &Split, feature: usize) -> Vec<u32> {
    (0..split.len()).map(|index| row(split, index)[feature].to_bits()).collect()
}

fn bits<const N: usize>(values: [f32; N]) -> Vec<u32> {
    values.map(f32::to_bits).to_vec()
}

/// A table with a column `x` of these cells and a numeric column `y`.
fn column(cells: &[&str]) -> String {
    let rows = cells.iter().enumerate().map(|(row, cell)| format!("{cell},{row}\n"));
    format!("x,y\n{}", rows.collect::<String>())
}

#[test]
fn numbers_are_clipped_to_quantiles_of_the_training_set_before_gaps_are_filled() {
    let folder = Folder::new();
    folder
        .write("file", column(&["9", "-5", "", "1", "-0", "0", "100"]))
        .write("test", column(&["-9", "", "2"]));
    let column = ColumnConfig { clip: clip(0.2, 0.8), fill: Some(Fill::Mean), ..none() };
    let config = DataConfig { test: Some("csv:test".into()), ..with([("x", column)]) };
    let loaded = load(&folder, &config);
    // The known values are -5, -0, 0, 1, 9, 100; the bounds are those at floor(0.2 * 5) and floor(0.8 * 5).
    let mean = (9.0 - 0.0 + 1.0 - 0.0 + 0.0 + 9.0) / 6.0;
    assert_eq!(feature(&loaded.train, 0), bits([9.0, -0.0, mean, 1.0, -0.0, 0.0, 9.0]));
    assert_eq!(feature(loaded.test.as_ref().unwrap(), 0), bits([-0.0, mean, 2.0]));
    let new = loaded.encoder().load("csv:test", LABELLED, folder.path(), &NoProgress).unwrap();
    assert_eq!(feature(&new, 0), bits([-0.0, mean, 2.0]));
}

#[test]
fn each_column_has_a_value_for_its_missing_cells() {
    let folder = Folder::new();
    folder
        .write("file", "a,b,c,d,y\n1,,u,?,1\n,5,v,u,2\n3,7,,v,3\n7,,v,v,4\n9,8,u,w,5\n")
        .write("bad", "a,b,c,d,y\n1,2,u,v,1\n1,,u,v,2\n");
    let filled = |fill| ColumnConfig { fill: Some(fill), ..none() };
    let config = with([
        ("a", filled(Fill::Median)),
        ("b", filled(Fill::Constant(-1.5))),
        ("c", filled(Fill::MostFrequent)),
        ("d", filled(Fill::None)),
    ]);
    let train = load(&folder, &config).train;
    assert_eq!(load(&folder, &config).feature_names, ["a", "b", "c=u", "c=v", "d=u", "d=v", "d=w"]);
    // Of two medians, the lower one is taken; of two equally frequent categories, the first one.
    assert_eq!(row(&train, 0), [1.0, -1.5, 1.0, 0.0, 0.0, 0.0, 0.0]);
    assert_eq!(row(&train, 1), [3.0, 5.0, 0.0, 1.0, 1.0, 0.0, 0.0]);
    assert_eq!(row(&train, 2), [3.0, 7.0, 1.0, 0.0, 0.0, 1.0, 0.0]);

    let refused = DataConfig { missing: Missing::Mean, ..with([("b", filled(Fill::Refuse))]) };
    assert_eq!(
        folder.refusal(&refused, Task::Regression),
        "file:2: column `b`: missing value (an empty cell); remove the row or set data.missing = \"mean\""
    );
    // Columns that refuse missing cells do so in other data as well, when others fill theirs.
    folder.write("file", "a,b,c,d,y\n1,4,u,u,1\n,5,v,v,2\n");
    let encoder = load(&folder, &refused).encoder();
    let refusal = encoder.load("csv:bad", LABELLED, folder.path(), &NoProgress).unwrap_err().to_string();
    assert!(refusal.contains("bad:3: column `b`: missing value"), "{refusal}");
    folder.write("file", "a,b,c,d,y\n,4,u,u,1\n,5,v,v,2\n");
    let refusal = folder.refusal(&with([("a", filled(Fill::Median))]), Task::Regression);
    assert_eq!(refusal, "csv:file: all cells of column `a` are missing in the training part");
}

#[test]
fn each_column_has_a_scale() {
    let folder = Folder::new();
    folder.write("file", "a,b,c,d,y\n1,-0,2,7,1\n3,5,4,7,2\n5,7,10,7,3\n");
    let scaled = |scale| ColumnConfig { scale: Some(scale), ..none() };
    let columns = [("b", scaled(Scale::None)), ("c", scaled(Scale::MinMax)), ("d", scaled(Scale::MinMax))];
    let standardized = DataConfig { standardize: true, ..with(columns.clone()) };
    let train = load(&folder, &standardized).train;
    let inverse = (1.0 / (8.0_f64 / 3.0).sqrt()) as f32;
    assert_eq!(feature(&train, 0), bits([-2.0 * inverse, 0.0, 2.0 * inverse]));
    assert_eq!(feature(&train, 1), bits([-0.0, 5.0, 7.0]));
    assert_eq!(feature(&train, 2), bits([0.0, 2.0 * 0.125, 1.0]));
    assert_eq!(feature(&train, 3), bits([0.0; 3]));
    let single = load(&folder, &with([("a", scaled(Scale::Standard))])).train;
    assert_eq!(feature(&single, 0), feature(&train, 0));
    assert_eq!(feature(&single, 2), bits([2.0, 4.0, 10.0]));
}

#[test]
fn the_validation_share_determines_no_bound_value_or_scale() {
    let folder = Folder::new();
    folder.write("file", column(&["1", "2", "3", "4", "5", "6", "7", "8", "9", "1000"]));
    let column = ColumnConfig { clip: clip(0.0, 1.0), scale: Some(Scale::MinMax), ..none() };
    let config = DataConfig { validation: Some(Validation::Share(0.3)), ..with([("x", column)]) };
    for seed in 0..20 {
        let loaded = load(&folder, &DataConfig { validation_seed: Some(seed), ..config.clone() });
        let mut known: Vec<f32> = feature(&loaded.train, 0).into_iter().map(f32::from_bits).collect();
        known.sort_by(f32::total_cmp);
        assert_eq!((known[0], known[6]), (0.0, 1.0));
        let others = feature(loaded.validation.as_ref().unwrap(), 0).into_iter().map(f32::from_bits);
        assert!(others.into_iter().all(|value| (0.0..=1.0).contains(&value)));
    }
}

#[test]
fn rare_and_unknown_strings_are_one_category_on_request() {
    let folder = Folder::new();
    folder
        .write("file", column(&["a", "b", "a", "c", "", "b", "(other)"]))
        .write("test", column(&["b", "z", ""]));
    let column = ColumnConfig { min_count: Some(2), fill: Some(Fill::Frequency), ..none() };
    let config = DataConfig { test: Some("csv:test".into()), ..with([("x", column)]) };
    let loaded = load(&folder, &config);
    assert_eq!(loaded.feature_names, ["x=a", "x=b", "x=(other)"]);
    assert_eq!(row(&loaded.train, 3), [0.0, 0.0, 1.0]);
    let third = (2.0_f64 / 6.0) as f32;
    assert_eq!(row(&loaded.train, 4), [third; 3]);
    let test = loaded.test.as_ref().unwrap();
    assert_eq!((row(test, 0), row(test, 1)), (vec![0.0, 1.0, 0.0], vec![0.0, 0.0, 1.0]));
    let refusal = |min_count| {
        let column = ColumnConfig { min_count: Some(min_count), fill: Some(Fill::None), ..none() };
        folder.refusal(&with([("x", column)]), Task::Regression)
    };
    assert_eq!(refusal(3), "file: column `x`: no string occurs at least 3 times; lower min_count");
}

#[test]
fn parts_of_dates_are_features() {
    let folder = Folder::new();
    folder.write("file", column(&["2024-02-29 06:30", "", "2023-12-31"]));
    let date = ColumnConfig { kind: Some(ColumnKind::Date), fill: Some(Fill::Median), ..none() };
    let loaded = load(&folder, &with([("x", date.clone())]));
    assert_eq!(loaded.feature_names, ["x.year", "x.month", "x.day", "x.weekday", "x.hour"]);
    assert_eq!(row(&loaded.train, 0), [2024.0, 2.0, 29.0, 3.0, 6.0]);
    assert_eq!(row(&loaded.train, 1), [2023.0, 2.0, 29.0, 3.0, 0.0]);
    let parts = Some(vec![DatePart::Days, DatePart::Quarter]);
    let loaded = load(&folder, &with([("x", ColumnConfig { parts, ..date.clone() })]));
    assert_eq!(row(&loaded.train, 2), [19_722.0, 4.0]);

    folder.write("file", column(&["2024-02-29", "29.2.2024"]));
    assert_eq!(
        folder.refusal(&with([("x", date)]), Task::Regression),
        "file:3: column `x`: `29.2.2024` is not a date (YYYY-MM-DD, possibly with HH:MM or HH:MM:SS)"
    );
    let format = ColumnConfig { format: Some("%d.%m.%Y".into()), ..none() };
    assert_eq!(
        folder.refusal(&with([("x", format)]), Task::Regression),
        "file:2: column `x`: `2024-02-29` is not a date (`%d.%m.%Y`)"
    );
}

#[test]
fn settings_that_do_not_suit_a_column_are_refused() {
    let folder = Folder::new();
    folder.write("file", "n,c,y\n1,u,1\n2,v,2\n");
    let refusal = |name: &str, column| {
        let text = folder.refusal(&with([(name, column)]), Task::Regression);
        text.strip_prefix("data.columns: ").unwrap().to_owned()
    };
    let kind = Some(ColumnKind::Category);
    for (name, column, expected) in [
        (
            "n",
            ColumnConfig { kind, clip: clip(0.1, 0.9), ..none() },
            "n.clip: the column is of kind category, and only a number has this",
        ),
        (
            "c",
            ColumnConfig { kind: Some(ColumnKind::Number), min_count: Some(2), ..none() },
            "c.min_count: the column is of kind number, and only a category has this",
        ),
        (
            "c",
            ColumnConfig { fill: Some(Fill::Median), ..none() },
            "c.fill: a category has this: refuse, frequency, most-frequent or none",
        ),
        (
            "n",
            ColumnConfig { fill: Some(Fill::None), ..none() },
            "n.fill: a number has this: refuse, mean, median or a number",
        ),
        (
            "n",
            ColumnConfig { kind: Some(ColumnKind::Ignore), fill: Some(Fill::Mean), ..none() },
            "n.fill: the column is of kind ignore, and only a column that is used has this",
        ),
        ("n", ColumnConfig { clip: clip(0.5, 0.5), ..none() }, "n.clip: 0.5 is not below 0.5"),
        ("n", ColumnConfig { parts: Some(vec![]), ..none() }, "n.parts: the list is empty"),
        ("n", ColumnConfig { parts: Some(vec![DatePart::Day; 2]), ..none() }, "n.parts: day is listed twice"),
    ] {
        assert_eq!(refusal(name, column), expected);
    }
}

#[test]
fn fingerprints_cover_what_the_settings_change() {
    let folder = Folder::new();
    folder.write("file", "n,c,y\n1,u,1\n2,v,2\n3,u,3\n");
    let fingerprints = |config: DataConfig| {
        let loaded = load(&folder, &config);
        [loaded.fingerprint, loaded.training_fingerprint]
    };
    let base = fingerprints(DataConfig::new("csv:file"));
    assert_eq!(
        fingerprints(with([("n", ColumnKind::Number.into()), ("c", ColumnKind::Category.into())])),
        base
    );
    let mut seen = vec![base];
    for column in [
        ColumnConfig { fill: Some(Fill::Mean), ..none() },
        ColumnConfig { fill: Some(Fill::Median), ..none() },
        ColumnConfig { fill: Some(Fill::Constant(0.0)), ..none() },
        ColumnConfig { fill: Some(Fill::Constant(1.0)), ..none() },
        ColumnConfig { scale: Some(Scale::Standard), ..none() },
        ColumnConfig { scale: Some(Scale::MinMax), ..none() },
        ColumnConfig { clip: clip(0.0, 0.9), ..none() },
        ColumnConfig { clip: clip(0.1, 0.9), ..none() },
        ColumnKind::Category.into(),
    ] {
        let other = fingerprints(with([("n", column)]));
        assert!(!seen.iter().any(|[all, training]| *all == other[0] || *training == other[1]));
        seen.push(other);
    }
}
