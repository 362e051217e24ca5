//! Compares `docs/numerics.md` with the code: its version, its table of settings, and its worked example.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

use crate::independent::compile;
use downhill_tests::{downhill, root, run};
use ps_config::RunConfig;
use ps_config::keys::{Accepts, KEYS};
use ps_core::layer::{self, KINDS};
use ps_core::{Model, NUMERICS_VERSION, Samples, reference, weights_hash};
use ps_data::Task;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{Debug, Write};
use std::fs;
use std::path::PathBuf;
use std::process::Command;

const PAGE: &str = "docs/numerics.md";

fn page() -> String {
    fs::read_to_string(root().join(PAGE)).unwrap()
}

fn section<'a>(page: &'a str, title: &str) -> &'a str {
    let (_, rest) =
        page.split_once(&format!("\n## {title}\n")).unwrap_or_else(|| panic!("no section {title}"));
    rest.split("\n## ").next().unwrap()
}

/// Returns the fenced block of a language.
pub(crate) fn block<'a>(section: &'a str, language: &str) -> &'a str {
    let (_, rest) = section.split_once(&format!("```{language}\n")).unwrap();
    rest.split_once("```").unwrap().0
}

#[test]
fn the_page_states_the_numerics_version_of_the_code() {
    assert!(page().contains(&format!("\nVersion {NUMERICS_VERSION}.\n")));
}

#[test]
fn the_table_of_settings_states_the_rounding_of_every_number() {
    let page = page();
    let rows =
        section(&page, "10. Settings").lines().filter_map(|line| line.strip_prefix("| ")?.split_once(" | "));
    let row = |(used, keys): (&str, &str)| {
        let keys = keys.split('`').skip(1).step_by(2).map(str::to_string).collect::<BTreeSet<_>>();
        (used.to_string(), keys)
    };
    let mut table: BTreeMap<String, BTreeSet<String>> = rows.map(row).collect();
    table.retain(|_, keys| !keys.is_empty());

    let mut wanted = BTreeMap::<String, BTreeSet<String>>::new();
    for key in KEYS.iter() {
        let used = match key.accepts {
            Accepts::Single(..) | Accepts::Factors => "binary32",
            Accepts::Double(..) | Accepts::Rates | Accepts::ShareOrText => "binary64",
            Accepts::Time(_) | Accepts::Times => "integers, or binary64 for times in epochs or hundredths",
            Accepts::Integer(..) | Accepts::Widths | Accepts::Batch(_) => "integers",
            Accepts::Flag
            | Accepts::Text
            | Accepts::Texts
            | Accepts::Names
            | Accepts::Separator
            | Accepts::Rows
            | Accepts::Name(_)
            | Accepts::Phases
            | Accepts::Columns
            | Accepts::TextOrInteger => continue,
            Accepts::Layers => {
                for setting in KINDS.iter().flat_map(|kind| kind.settings) {
                    let used = match setting.accepts {
                        layer::Accepts::Count(_) => "integers",
                        layer::Accepts::Share => "binary32",
                    };
                    wanted.entry(used.into()).or_default().insert(setting.name.into());
                }
                continue;
            }
        };
        wanted.entry(used.into()).or_default().insert(key.path.into());
    }
    assert_eq!(table, wanted, "{PAGE} left, code right");
}

/// Run with `UPDATE_NUMERICS=1` to update the numbers on the page.
#[test]
fn the_worked_example_matches_both_programs() {
    let page = page();
    let example = section(&page, "12. A worked example");
    let [file, table, stated] = ["toml", "csv", "text"].map(|language| block(example, language));
    let (numbers, hash) = worked_example(file, table);
    if std::env::var_os("UPDATE_NUMERICS").is_some() {
        let fenced = |text: &str| format!("```text\n{text}```");
        fs::write(root().join(PAGE), page.replace(&fenced(stated), &fenced(&numbers))).unwrap();
        return;
    }
    assert_eq!(stated, numbers, "{PAGE} left, code right");

    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::write(path("run.toml"), file).unwrap();
    fs::write(path("ten.csv"), table).unwrap();
    let trained = run(downhill(&["train"]).arg(path("run.toml")).arg("--out").arg(path("out")));
    assert_eq!(trained.hash(), hash);
    let Some(program) = compile(folder.path()) else { return };
    let settings =
        "label=y head=squared-error hidden=2 activation=tanh seed=7 epochs=2 batch=5 leaf=2 initial=0.1";
    let csv = format!("csv={}", path("ten.csv").display());
    let output = Command::new(program).arg(csv).args(settings.split(' ')).output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap().lines().last(), Some(&*hash));
}

/// Returns the numbers of the example in the format of the page, and the hash of its last weights.
fn worked_example(file: &str, table: &str) -> (String, String) {
    let run = RunConfig::parse(file, "run.toml", &[]).unwrap();
    let files = BTreeMap::from([(PathBuf::from("ten.csv"), table.as_bytes().to_vec())]);
    let data = ps_data::load_from_memory(&run.data, Task::Regression, run.seed, &files).unwrap();
    let samples = &data.train;
    let model = Model::new(samples.features(), &run.model.hidden, run.model.activation, run.model.head, 0);
    let plan = run.plan(samples.len(), 0);
    let (step, initial) = (plan.step(0), model.initial(run.seed));
    let mut numbers = String::new();

    for epoch in 0..2 {
        let order = plan.order(plan.step(epoch * plan.steps_per_epoch()));
        let _ =
            writeln!(numbers, "order of epoch {epoch}: {}", list((0..plan.samples).map(|at| order.at(at))));
    }
    let order = plan.order(step);
    let _ = writeln!(
        numbers,
        "samples of step 0: {}",
        list((0..step.samples).map(|at| order.at(step.first + at)))
    );
    let weights = |numbers: &mut String, when: &str, weights: &[f32]| {
        let _ = writeln!(numbers, "\nweights {when}:");
        for tensor in model.layout().tensors() {
            let values = &weights[tensor.offset..tensor.offset + tensor.len()];
            let _ = writeln!(numbers, "  {}: {}", tensor.name, list(values));
        }
    };
    weights(&mut numbers, "before step 0", &initial);
    let leaf = |index| reference::leaf(&model, &initial, samples, plan, step, index).metric_sums.loss;
    let _ =
        writeln!(numbers, "\nloss of the leaves of step 0: {}", list((0..step.tree().leaves()).map(leaf)));
    let rate = run.rate(&plan).unwrap();
    let trained = reference::train(&model, plan, run.optimizer.clone(), rate, samples, |report, after| {
        if report.step == 0 {
            let _ = writeln!(
                numbers,
                "loss of step 0: {:?}, mean {:?}",
                report.metric_sums.loss,
                report.metric_sums.mean_loss()
            );
            weights(&mut numbers, "after step 0", after);
        }
    });
    let trained = trained.unwrap();
    weights(&mut numbers, &format!("after step {}, the last", plan.steps - 1), &trained);
    let hash = weights_hash(&trained);
    let _ = writeln!(numbers, "\nSHA-256 of the last weights: {hash}");
    (numbers, hash)
}

fn list(values: impl IntoIterator<Item: Debug>) -> String {
    values.into_iter().map(|value| format!("{value:?}")).collect::<Vec<_>>().join(" ")
}
