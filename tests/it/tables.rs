//! Tables from other programs, each with its run file in `tests/tables`: none of them needs another program, and the
//! scores are those of scikit-learn on the same split.

use downhill_tests::{downhill, root, run};
use ps_config::RunConfig;
use ps_data::Source;
use serde_json::Value;
use std::fs;

/// The largest difference between two accuracies.
const ACCURACY: f64 = 0.005;
/// The largest relative difference between two errors.
const RMSE: f64 = 0.01;

/// `tests/truth/sklearn_tables.py` makes the scores and the small tables.
#[test]
fn every_table_is_learned_as_well_as_by_scikit_learn() {
    let truth = fs::read_to_string(root().join("tests/truth/sklearn_tables.json")).unwrap();
    let truth: serde_json::Map<String, Value> = serde_json::from_str(&truth).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut tables = 0;
    for (name, wanted) in truth.iter().filter(|(_, score)| score.is_object()) {
        let file = root().join(format!("tests/tables/{name}.toml"));
        let sources = RunConfig::load(&file, &[]).unwrap().data;
        let files = sources.sources().flat_map(|source| {
            let source = Source::parse(source).unwrap();
            source.files().into_iter().map(|path| file.with_file_name(path)).collect::<Vec<_>>()
        });
        if let Some(absent) = files.into_iter().find(|path| !path.exists()) {
            println!("skipped: {} is not there", absent.display());
            continue;
        }
        let out = folder.path().join(name);
        run(downhill(&["train"]).arg(&file).arg("--out").arg(&out)).hash();
        let summary: Value =
            serde_json::from_str(&fs::read_to_string(out.join("summary.json")).unwrap()).unwrap();
        let part = if summary["test"].is_object() { &summary["test"] } else { &summary["validation"] };
        match wanted["accuracy"].as_f64() {
            Some(wanted) => {
                let accuracy = part["accuracy"].as_f64().unwrap();
                println!("{name}: accuracy {accuracy:.4}, scikit-learn {wanted:.4}");
                assert!((accuracy - wanted).abs() <= ACCURACY, "{name}: {accuracy}, not {wanted}");
            }
            None => {
                let (rmse, wanted) =
                    (part["scores"]["rmse"].as_f64().unwrap(), wanted["rmse"].as_f64().unwrap());
                println!("{name}: RMSE {rmse:.4}, scikit-learn {wanted:.4}");
                assert!((rmse / wanted - 1.0).abs() <= RMSE, "{name}: {rmse}, not {wanted}");
            }
        }
        tables += 1;
    }
    assert!(tables >= 8, "the small tables are in the repository");
}
