//! Compares ten training steps of every kind of model with losses, initial weights and final weights that
//! `truth/ten_steps.py` computed in binary64 with numpy and stored in `truth/ten_steps.json`.

use crate::generated::Table;
use ps_core::optim::Sgd;
use ps_core::{Activation, Head, LearningRate, Model, OptimizerParams, reference};
use ps_plan::BatchPlan;
use serde_json::Value;

#[test]
fn ten_steps_match_the_losses_of_another_implementation() {
    let cases: Vec<Value> = serde_json::from_str(include_str!("../truth/ten_steps.json")).unwrap();
    assert_eq!(cases.len(), 50);
    let mut worst = 0.0_f64;
    for case in &cases {
        let name = case["name"].as_str().unwrap();
        let samples = samples(case);
        let hidden: Vec<usize> = numbers(&case["hidden"]).iter().map(|&width| width as usize).collect();
        let classes = case["classes"].as_u64().unwrap() as usize;
        let model = Model::new(samples.features, &hidden, activation(case), head(case), classes);
        let initial = model.initial(case["seed"].as_u64().unwrap());
        // Initial weights must be equal, because the script follows the same rules and rounds in the same
        // places. (Parsing JSON may lose the last bit of a binary64, but not that of a binary32.)
        let wanted: Vec<f32> = numbers(&case["initial"]).iter().map(|&w| w as f32).collect();
        assert_eq!(initial, wanted, "{name}");

        let batch = case["batch"].as_u64().unwrap() as usize;
        let plan =
            BatchPlan::new(case["seed"].as_u64().unwrap(), samples.targets.len(), batch, 3, 9, Some(10));
        let single = |key: &str| case[key].as_f64().unwrap() as f32;
        let sgd = Sgd { momentum: single("momentum"), nesterov: case["nesterov"].as_bool().unwrap() };
        let sgd = OptimizerParams { weight_decay: single("weight_decay"), ..sgd.into() };
        let rate = LearningRate::constant(case["rate"].as_f64().unwrap());
        let mut losses = Vec::new();
        let weights = reference::train(&model, plan, sgd, rate, &samples, |report, _| {
            losses.push(report.metric_sums.mean_loss());
        });

        let wanted = numbers(&case["losses"]);
        assert_eq!(losses.len(), wanted.len(), "{name}");
        for (step, (loss, wanted)) in losses.iter().zip(&wanted).enumerate() {
            let error = (loss / wanted - 1.0).abs();
            worst = worst.max(error);
            assert!(error < 1e-5, "{name}, step {step}: loss {loss}, not {wanted}");
        }
        for (index, (&w, wanted)) in weights.unwrap().iter().zip(numbers(&case["final"])).enumerate() {
            let error = (f64::from(w) - wanted).abs();
            assert!(error < 1e-5 * wanted.abs().max(0.1), "{name}, weight {index}: {w}, not {wanted}");
        }
    }
    println!("{} cases of ten steps; largest relative error of a loss {worst:.1e}", cases.len());
}

fn numbers(list: &Value) -> Vec<f64> {
    list.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

fn samples(case: &Value) -> Table {
    let rows: Vec<Vec<f64>> = case["x"].as_array().unwrap().iter().map(numbers).collect();
    Table {
        features: rows[0].len(),
        values: rows.concat().iter().map(|&x| x as f32).collect(),
        targets: numbers(&case["y"]).iter().map(|&y| y as f32).collect(),
    }
}

fn head(case: &Value) -> Head {
    serde_json::from_value(case["head"].clone()).unwrap()
}

fn activation(case: &Value) -> Activation {
    serde_json::from_value(case["activation"].clone()).unwrap()
}
