//! Scores against those that scikit-learn computes from the same predictions.
//!
//! `truth/sklearn_scores.py` computed `truth/sklearn_scores.json` on seven data sets.

use ps_core::{Head, Scores};
use serde_json::Value;

#[test]
fn scores_match_scikit_learn() {
    let truth: Value = serde_json::from_str(include_str!("../truth/sklearn_scores.json")).unwrap();
    for case in truth["cases"].as_array().unwrap() {
        let names: Vec<String> = serde_json::from_value(case["classes"].clone()).unwrap();
        let head: Head = serde_json::from_value(case["head"].clone()).unwrap();
        let (predictions, targets) = (numbers(&case["predictions"]), numbers(&case["targets"]));
        let scores = Scores::new(head, predictions, &targets, &names, 0.0);
        check(case["name"].as_str().unwrap(), &case["scores"], &serde_json::to_value(&scores).unwrap());
    }
}

fn numbers(values: &Value) -> Vec<f32> {
    values.as_array().unwrap().iter().map(|value| value.as_f64().unwrap() as f32).collect()
}

/// Checks every value in `expected` against the one at the same place in `found`.
fn check(place: &str, expected: &Value, found: &Value) {
    match expected {
        Value::Object(entries) => {
            entries.iter().for_each(|(key, value)| check(&format!("{place}.{key}"), value, &found[key]));
        }
        Value::Array(items) => {
            assert_eq!(items.len(), found.as_array().unwrap().len(), "{place}");
            for (index, value) in items.iter().enumerate() {
                check(&format!("{place}[{index}]"), value, &found[index]);
            }
        }
        expected => {
            let (expected, found) = (expected.as_f64().unwrap(), found.as_f64().unwrap());
            let is_close = (expected - found).abs() <= 1e-12 * expected.abs().max(1.0);
            assert!(is_close, "{place}: {found} here, {expected} by scikit-learn");
        }
    }
}
