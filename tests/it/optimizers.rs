//! Compares optimizers and the plateau schedule with the results of PyTorch and optax
//! (`truth/library_optimizers.py`).

use ps_config::RunConfig;
use ps_core::control::Event;
use ps_core::{Activation, Control, Head, MetricSums, Model, ModelOptimizer, Observed};
use serde_json::Value;

const TABLE: &str = include_str!("../truth/library_optimizers.json");

/// Returns the numbers of a JSON array, in which null stands for NaN.
fn numbers(value: &Value) -> Vec<f64> {
    let number = |value: &Value| if value.is_null() { f64::NAN } else { value.as_f64().unwrap() };
    value.as_array().unwrap().iter().map(number).collect()
}

/// Creates the model and the policies for a run file with these lines, whose batches have one sample.
fn control(optimizer: &str, rate: &str) -> (Model, Control) {
    let text = format!(
        "[data]\ntrain = \"digits:\"\nvalidation = 0.1\n[model]\nkind = \"softmax\"\n[train]\nbatch = 1\nepochs = 100\n\
         [optimizer]\n{optimizer}\n[learning_rate]\n{rate}\n"
    );
    let run = RunConfig::parse(&text, "table", &[]).unwrap_or_else(|error| panic!("{text}: {error}"));
    let model = Model::new(4, &[], Activation::Relu, Head::Softmax, 3);
    let plan = run.plan(1, 0);
    let optimizer = ModelOptimizer::new(run.optimizer.clone(), &model, 1);
    (model.clone(), Control::new(run.control(&plan), optimizer, plan, run.rate(&plan).unwrap()))
}

fn observed(validation: Option<f64>) -> Observed {
    let metric_sums = |loss| MetricSums { samples: 1, loss, ..MetricSums::new(3) };
    Observed { train: metric_sums(1.0), last_batch: None, validation: validation.map(metric_sums) }
}

#[test]
fn ten_steps_of_every_optimizer_match_pytorch_optax_or_the_paper() {
    let table: Value = serde_json::from_str(TABLE).unwrap();
    let gradients: Vec<Vec<f64>> = table["gradients"].as_array().unwrap().iter().map(numbers).collect();
    let rows = table["optimizers"].as_array().unwrap();
    assert_eq!(rows.len(), 21);
    for row in rows {
        let (source, settings) = (row["source"].as_str().unwrap(), row["table"].as_str().unwrap());
        let (_, mut control) = control(settings, "initial = 0.1");
        let mut weights: Vec<f32> = numbers(&row["start"]).iter().map(|&weight| weight as f32).collect();
        let mut state = vec![0.0; control.vectors().len() * weights.len()];
        for (step, wanted) in row["path"].as_array().unwrap().iter().enumerate() {
            let gradient: Vec<f32> = gradients[step].iter().map(|&g| g as f32).collect();
            let at = control.plan().step(step as u64);
            let verdict = if control.holds(at.step) {
                let step_params = control.plain(at).step_params;
                let optimizer = control.optimizer();
                let norms =
                    optimizer.norms(&optimizer.measure_all(&step_params, &weights, &gradient, &state));
                control.decide(at, &observed(None), &norms).unwrap().0
            } else {
                let verdict = control.plain(at);
                control.made_plain(&verdict, &observed(None));
                verdict
            };
            control.apply_to_all(&verdict, &mut weights, &gradient, &mut state);
            for (index, (&got, wanted)) in weights.iter().zip(numbers(wanted)).enumerate() {
                let error = (f64::from(got) - wanted).abs();
                assert!(
                    error <= 2e-6 * wanted.abs().max(1.0),
                    "{source} ({settings}), step {step}, parameter {index}: {got}, not {wanted}"
                );
            }
        }
    }
}

#[test]
fn a_plateau_lowers_the_rate_when_pytorch_does() {
    let table: Value = serde_json::from_str(TABLE).unwrap();
    let rows = table["plateaus"].as_array().unwrap();
    assert_eq!(rows.len(), 6);
    for row in rows {
        let settings = row["table"].as_str().unwrap();
        let (_, mut control) = control("", settings);
        let rates = numbers(&row["rates_after"]);
        let mut before = 0.2;
        for (step, (loss, wanted)) in numbers(&row["losses"]).into_iter().zip(rates).enumerate() {
            let at = control.plan().step(step as u64);
            let norms = control.optimizer().norms(&[]);
            let (verdict, decided) = control.decide(at, &observed(Some(loss)), &norms).unwrap();
            assert_eq!(
                verdict.step_params.rate, wanted as f32,
                "{settings}, after validation {step} of {loss}"
            );
            let lowered = decided.events.iter().any(|event| matches!(event, Event::Lowered { .. }));
            assert_eq!(lowered, wanted != before, "{settings}, validation {step}");
            before = wanted;
        }
        assert!(before < 0.1, "the rate was lowered at all");
    }
}
