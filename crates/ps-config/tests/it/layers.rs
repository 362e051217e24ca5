//! Hidden layers that are listed one by one.

use ps_config::{ConfigError, RunConfig};
use ps_core::layer::KINDS;

fn with(layers: &str, more: &str) -> Result<RunConfig, ConfigError> {
    let text = format!(
        "[data]\ntrain = \"digits:\"\n[model]\nkind = \"mlp\"\nlayers = [{layers}]\n{more}[learning_rate]\ninitial = 0.1\n"
    );
    RunConfig::parse(&text, "run.toml", &[])
}

#[test]
fn every_kind_of_layer_reads_back_as_it_was_written() {
    for kind in KINDS {
        let layers = kind.example.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let run = with(&layers, "").unwrap();
        assert_eq!(run.model.hidden_layers(), kind.example, "{layers}");
        let again = RunConfig::parse(&run.to_toml(), "again.toml", &[]).unwrap();
        assert_eq!(again.model, run.model, "{layers}");
        assert_eq!(again.fingerprint(), run.fingerprint(), "{layers}");
        assert!(!run.to_toml().contains("activation ="), "{}", run.to_toml());
    }
}

#[test]
fn tables_below_the_model_are_the_same_list() {
    let tables = "[[model.layers]]\nkind = \"dense\"\nunits = 3\n[[model.layers]]\nkind = \"relu\"\n";
    let text = format!(
        "[data]\ntrain = \"digits:\"\n[model]\nkind = \"mlp\"\n{tables}[learning_rate]\ninitial = 0.1\n"
    );
    let run = RunConfig::parse(&text, "run.toml", &[]).unwrap();
    assert_eq!(run.model, with("{ kind = \"dense\", units = 3 }, { kind = \"relu\" }", "").unwrap().model);
}

#[test]
fn invalid_layer_lists_are_refused_with_the_layer_and_the_reason() {
    let refused = |layers: &str, more: &str, expected: &str| match with(layers, more) {
        Ok(run) => panic!("accepted, expected: {expected}\n{}", run.to_toml()),
        Err(error) => assert_eq!(error.to_string(), format!("run.toml:{expected}")),
    };
    let value = |layers: &str, expected: &str| {
        refused(layers, "", &format!("5: model.layers = [{layers}]: {expected}"));
    };
    value("", "without hidden layers use kind \"linear\", \"logistic\", \"softmax\" or \"poisson\"");
    value("3", "layer 0: expected a table, such as { kind = \"relu\" }");
    value("{ kind = \"rleu\" }", "layer 0: unknown kind \"rleu\"; did you mean \"relu\"?");
    value(
        "{ kind = \"relu\" }, { kind = \"dense\" }",
        "layer 1: units is missing: expected an integer from 1 to 1000000",
    );
    value("{ kind = \"dense\", units = 0 }", "layer 0: units: expected an integer from 1 to 1000000");
    value("{ kind = \"dense\", units = 2.5 }", "layer 0: units: expected an integer from 1 to 1000000");
    value("{ kind = \"dense\", unit = 2 }", "layer 0: unknown key \"unit\"; did you mean \"units\"?");
    value("{ kind = \"relu\", units = 2 }", "layer 0: relu has no key units");
    value(
        "{ kind = \"relu\" }, { kind = \"residual\", over = 2 }",
        "layer 1: residual over 2 layers, but only 1 come before it",
    );
    let narrow =
        "{ kind = \"dense\", units = 3 }, { kind = \"dense\", units = 4 }, { kind = \"residual\", over = 1 }";
    match with(narrow, "") {
        Ok(_) => panic!("accepted"),
        Err(error) => assert!(
            error.to_string().ends_with(
                "layer 2: residual over 1 layers: the first of them has 3 inputs, but the last has 4 outputs"
            ),
            "{error}"
        ),
    }
    // The number of features is known only when the data is loaded.
    assert!(with("{ kind = \"dense\", units = 3 }, { kind = \"residual\", over = 1 }", "").is_ok());
    refused(
        "{ kind = \"relu\" }",
        "hidden = [3]\n",
        "6: model.hidden has no effect: it cannot be combined with model.layers; remove one of them",
    );
    refused(
        "{ kind = \"dense\", units = 2 }",
        "[optimizer]\nrates = { \"layers.2\" = 0.5 }\n",
        "7: optimizer.rates = { \"layers.2\" = 0.5 }: unknown parameters layers.2; expected weights, \
         biases, or layers.0 to layers.1, optionally with .weight or .bias",
    );
}
