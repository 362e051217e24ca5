//! Compares learning rates with a table that `truth/ten_steps.py` computed by the formulas of PyTorch, optax
//! and Keras (it names the one for each schedule) with the platform's own cos and pow, and with a table that
//! `truth/library_schedules.py` obtained from the libraries themselves.

use ps_config::RunConfig;
use ps_core::{LearningRate, ScheduleKind};
use serde_json::Value;

#[test]
fn every_schedule_matches_the_formulas_of_the_libraries() {
    let table: Vec<Value> = serde_json::from_str(include_str!("../truth/schedules.json")).unwrap();
    assert_eq!(table.len(), 14);
    for row in &table {
        let number = |key: &str| row[key].as_f64().unwrap();
        let whole = |key: &str| row[key].as_u64().unwrap();
        let schedule: ScheduleKind = serde_json::from_value(row["schedule"].clone()).unwrap();
        let rate = LearningRate {
            initial: number("initial"),
            schedule,
            warmup: whole("warmup"),
            every: whole("every"),
            factor: number("factor"),
            power: number("power"),
            end: number("end"),
            steps: whole("steps"),
            ..LearningRate::constant(1.0)
        };
        let rates = row["rates"].as_array().unwrap();
        assert_eq!(rates.len() as u64, rate.steps);
        for (step, wanted) in rates.iter().enumerate() {
            let (ours, wanted) = (rate.at(step as u64), wanted.as_f64().unwrap());
            // Half a unit in the last place of binary32 is at most 6e-8 of the value.
            let error = (f64::from(ours) / wanted - 1.0).abs();
            assert!(
                error < 6.1e-8,
                "{schedule:?}, warm-up {}, step {step}: {ours}, not {wanted}",
                rate.warmup
            );
        }
    }
}

#[test]
fn consecutive_schedules_match_the_libraries() {
    let table: Vec<Value> = serde_json::from_str(include_str!("../truth/library_schedules.json")).unwrap();
    assert_eq!(table.len(), 8);
    for row in &table {
        let library = row["library"].as_str().unwrap();
        let (epochs, per_epoch) = (row["epochs"].as_u64().unwrap(), row["per_epoch"].as_u64().unwrap());
        let text = format!(
            "[data]\ntrain = \"digits:\"\n[model]\nkind = \"softmax\"\n[train]\nbatch = 1024\nepochs = {epochs}\n\
             [learning_rate]\n{}",
            row["table"].as_str().unwrap()
        );
        let run = RunConfig::parse(&text, "table", &[]).unwrap_or_else(|error| panic!("{library}: {error}"));
        let plan = run.plan(1024 * per_epoch as usize, 0);
        let rate = run.rate(&plan).unwrap();
        let rates = row["rates"].as_array().unwrap();
        assert_eq!(rates.len() as u64, plan.steps, "{library}");
        for (step, wanted) in rates.iter().enumerate() {
            let (ours, wanted) = (rate.at(step as u64), wanted.as_f64().unwrap());
            let error = (f64::from(ours) / wanted - 1.0).abs();
            assert!(error < 6.1e-8, "{library}, step {step}: {ours}, not {wanted}");
        }
    }
}
