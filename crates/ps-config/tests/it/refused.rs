//! Run files that are refused, and the error messages.

use ps_config::{ConfigError, RunConfig};

const GOOD: &str = r#"seed = 7
[data]
train = "digits:"
validation = 0.1
[model]
kind = "mlp"
hidden = [32, 16]
[train]
epochs = 3
batch = 64
[optimizer]
momentum = 0.9
[learning_rate]
initial = 0.05
schedule = "cosine"
"#;

fn parse(text: &str) -> Result<RunConfig, ConfigError> {
    RunConfig::parse(text, "run.toml", &[])
}

fn with(sets: &[&str]) -> Result<RunConfig, ConfigError> {
    let sets: Vec<String> = sets.iter().map(|set| set.to_string()).collect();
    RunConfig::parse(GOOD, "run.toml", &sets)
}

#[track_caller]
fn refused(run: Result<RunConfig, ConfigError>, expected: &str) {
    match run {
        Ok(run) => panic!("accepted, expected: {expected}\n{}", run.to_toml()),
        Err(error) => assert_eq!(error.to_string(), expected),
    }
}

/// Asserts that `GOOD` with one line replaced is refused with the message `expected`.
#[track_caller]
fn line(old: &str, new: &str, expected: &str) {
    assert!(GOOD.contains(old), "{old} is a line of the good run file");
    refused(parse(&GOOD.replace(old, new)), expected);
}

#[test]
fn unknown_keys_are_refused_with_the_nearest() {
    line("batch = 64", "bacth = 64", "run.toml:10: unknown key train.bacth: did you mean train.batch?");
    line("seed = 7", "batch = 7", "run.toml:1: unknown key batch: did you mean train.batch?");
    line("seed = 7", "sede = 7", "run.toml:1: unknown key sede: did you mean seed?");
    line(
        "seed = 7",
        "zzz = 7",
        "run.toml:1: unknown key zzz: valid are seed and the tables data, model, train, optimizer, \
         learning_rate, guard, wire",
    );
    line(
        "batch = 64",
        "workers = 2",
        "run.toml:10: unknown key train.workers: [train] has the keys epochs, batch, leaf, steps, early_stopping, monitor, min_delta, probe_every",
    );
    line("[optimizer]", "[optimiser]", "run.toml:11: unknown table [optimiser]: did you mean [optimizer]?");
    line(
        "[optimizer]",
        "[network]",
        "run.toml:11: unknown table [network]: valid are seed and the tables data, model, train, optimizer, \
         learning_rate, guard, wire",
    );
    line(
        "[train]",
        "[train.more]",
        "run.toml:8: unknown table [train.more]: [train] has the keys epochs, batch, leaf, steps, early_stopping, monitor, min_delta, probe_every",
    );
    line(
        "[data]\ntrain = \"digits:\"\nvalidation = 0.1",
        "data = \"digits:\"",
        r#"run.toml:2: data = "digits:": this is a table; write [data], followed by its keys on the next lines"#,
    );
    line(
        "seed = 7",
        "lr = 7",
        "run.toml:1: unknown key lr: valid are seed and the tables data, model, train, optimizer, \
         learning_rate, guard, wire",
    );
    line(
        "initial = 0.05",
        "rate = 0.05",
        "run.toml:14: unknown key learning_rate.rate: did you mean learning_rate.rates?",
    );
    line(
        "initial = 0.05",
        "momentum = 0.05",
        "run.toml:14: unknown key learning_rate.momentum: did you mean optimizer.momentum?",
    );
}

#[test]
fn wrong_types_and_impossible_values_are_refused() {
    line("seed = 7", "seed = -1", "run.toml:1: seed = -1: expected an integer of at least 0");
    line(
        "seed = 7",
        "seed = 99999999999999999999",
        "run.toml:1: seed = 99999999999999999999: expected an integer of at least 0; the value is an integer \
         that does not fit into 64 bits",
    );
    line(
        "seed = 7",
        "[seed]",
        "run.toml:1: seed = [seed]: expected an integer of at least 0; the value is a table",
    );
    line("\"digits:\"", "5", "run.toml:3: data.train = 5: expected a string in quotes");
    line(
        "\"digits:\"",
        "\"\"",
        r#"run.toml:3: data.train = "": expected a string in quotes; the string is empty"#,
    );
    line(
        "validation = 0.1",
        "validation = 1.5",
        "run.toml:4: data.validation = 1.5: expected a number above 0 and below 1, or a source in quotes",
    );
    line(
        "validation = 0.1",
        "validation = 0",
        "run.toml:4: data.validation = 0: expected a number above 0 and below 1, or a source in quotes",
    );
    line("validation = 0.1", "standardize = 1", "run.toml:4: data.standardize = 1: expected true or false");
    line(
        "validation = 0.1",
        "missing = \"median\"",
        r#"run.toml:4: data.missing = "median": did you mean "mean"? expected "refuse" or "mean""#,
    );
    line("validation = 0.1", "header = 1", "run.toml:4: data.header = 1: expected true or false");
    line(
        "validation = 0.1",
        "missing_values = \"-\"",
        r#"run.toml:4: data.missing_values = "-": expected a list of strings, such as ["NA", "-"]"#,
    );
    line(
        "validation = 0.1",
        "missing_values = [-999]",
        r#"run.toml:4: data.missing_values = [-999]: expected a list of strings, such as ["NA", "-"]"#,
    );
    for range in ["5", "5..5", "-1..5", "a..b"] {
        line(
            "validation = 0.1",
            &format!("rows = \"{range}\""),
            &format!(
                r#"run.toml:4: data.rows = "{range}": expected a range of rows, such as "0..8000", "8000.." or "..8000""#
            ),
        );
    }
    for separator in ["", "ab", "\\\"", "5"] {
        line(
            "validation = 0.1",
            &format!("separator = \"{separator}\""),
            &format!(
                r#"run.toml:4: data.separator = "{separator}": expected a character such as ";", or "tab", or " " for any number of blanks"#
            ),
        );
    }
    line(
        "validation = 0.1",
        "drop = []",
        r#"run.toml:4: data.drop = []: expected a list of columns, such as ["id", "name"]"#,
    );
    line(
        "validation = 0.1",
        "columns = { id = \"drop\" }",
        r#"run.toml:4: data.columns = { id = "drop" }: column "id": expected "number", "category", "date" or "ignore""#,
    );
    for (column, problem) in [
        (
            "5",
            r#"expected "number", "category", "date" or "ignore", or a table such as { kind = "number", fill = "median" }"#,
        ),
        ("{ kind = 1 }", r#"expected "number", "category", "date" or "ignore""#),
        (
            "{ fil = 1 }",
            "`fil` is unknown; a column has kind, fill, scale, clip, min_count, parts and format",
        ),
        (
            "{ fill = \"most\" }",
            r#"fill: expected a number, "refuse", "mean", "median", "frequency", "most-frequent" or "none""#,
        ),
        ("{ scale = \"max\" }", r#"scale: expected "standard", "min-max" or "none""#),
        (
            "{ clip = [0.9, 0.1] }",
            "clip: expected two ascending numbers from 0 to 1 with at most nine decimals, such as [0.01, 0.99]",
        ),
        (
            "{ clip = [0, 0.1234567891] }",
            "clip: expected two ascending numbers from 0 to 1 with at most nine decimals, such as [0.01, 0.99]",
        ),
        ("{ min_count = 0 }", "min_count: expected an integer of at least 1"),
        (
            "{ parts = [] }",
            r#"parts: expected a list of "year", "quarter", "month", "day", "weekday", "yearday", "hour", "minute", "second" or "days""#,
        ),
        ("{ format = 1 }", r#"format: expected a string such as "%d/%m/%Y""#),
    ] {
        line(
            "validation = 0.1",
            &format!("columns = {{ a = {column} }}"),
            &format!("run.toml:4: data.columns = {{ a = {column} }}: column \"a\": {problem}"),
        );
    }
    line(
        "kind = \"mlp\"",
        "kind = \"MLP\"",
        r#"run.toml:6: model.kind = "MLP": did you mean "mlp"? expected "linear", "logistic", "softmax", "poisson" or "mlp""#,
    );
    line(
        "kind = \"mlp\"",
        "kind = \"softmaxx\"",
        r#"run.toml:6: model.kind = "softmaxx": did you mean "softmax"? expected "linear", "logistic", "softmax", "poisson" or "mlp""#,
    );
    line(
        "kind = \"mlp\"",
        "kind = 3",
        r#"run.toml:6: model.kind = 3: expected "linear", "logistic", "softmax", "poisson" or "mlp""#,
    );
    line(
        "[32, 16]",
        "[32, 0]",
        "run.toml:7: model.hidden = [32, 0]: expected a list of integers from 1 to 1000000, such as [512, 256]",
    );
    line(
        "[32, 16]",
        "[]",
        r#"run.toml:7: model.hidden = []: expected a list of integers from 1 to 1000000, such as [512, 256]; without hidden layers use kind "linear", "logistic", "softmax" or "poisson""#,
    );
    line(
        "[32, 16]",
        "32",
        "run.toml:7: model.hidden = 32: expected a list of integers from 1 to 1000000, such as [512, 256]",
    );
    line(
        "[32, 16]",
        "[\n  32,\n  \"x\"]",
        r#"run.toml:7: model.hidden = [ 32, "x"]: expected a list of integers from 1 to 1000000, such as [512, 256]"#,
    );
    line(
        "epochs = 3",
        "epochs = 0",
        "run.toml:9: train.epochs = 0: expected an integer from 1 to 4294967295",
    );
    line(
        "epochs = 3",
        "epochs = 2.5",
        "run.toml:9: train.epochs = 2.5: expected an integer from 1 to 4294967295",
    );
    line(
        "batch = 64",
        "batch = -64",
        "run.toml:10: train.batch = -64: expected an integer from 1 to 4294967295, or \"full\"",
    );
    line(
        "batch = 64",
        "batch = \"64\"",
        r#"run.toml:10: train.batch = "64": expected an integer from 1 to 4294967295, or "full""#,
    );
    line(
        "batch = 64",
        "batch = 64\nleaf = 0",
        "run.toml:11: train.leaf = 0: expected an integer from 1 to 4294967295",
    );
    line(
        "batch = 64",
        "batch = 64\nleaf = 65",
        "run.toml:11: train.leaf = 65: a leaf cannot be larger than a batch; expected at most train.batch = \
         64",
    );
    line(
        "batch = 64",
        "batch = 2026-01-01",
        "run.toml:10: train.batch = 2026-01-01: expected an integer from 1 to 4294967295, or \"full\"; the value is a date",
    );
    line(
        "momentum = 0.9",
        "momentum = 1.0",
        "run.toml:12: optimizer.momentum = 1.0: expected a number of at least 0 and below 1",
    );
    line(
        "momentum = 0.9",
        "momentum = 0.99999999999",
        "run.toml:12: optimizer.momentum = 0.99999999999: expected a number of at least 0 and below 1",
    );
    line(
        "momentum = 0.9",
        "weight_decay = -0.1",
        "run.toml:12: optimizer.weight_decay = -0.1: expected a finite number of at least 0",
    );
    line("momentum = 0.9", "clip = 0", "run.toml:12: optimizer.clip = 0: expected a finite number above 0");
    line(
        "momentum = 0.9",
        "l1 = nan",
        "run.toml:12: optimizer.l1 = nan: expected a finite number of at least 0",
    );
    line(
        "momentum = 0.9",
        "nesterov = true",
        "run.toml:12: optimizer.nesterov = true: it needs momentum; set optimizer.momentum, for example to \
         0.9",
    );
    line(
        "initial = 0.05",
        "initial = inf",
        "run.toml:14: learning_rate.initial = inf: expected a finite number above 0",
    );
    line(
        "initial = 0.05",
        "initial = -0.05",
        "run.toml:14: learning_rate.initial = -0.05: expected a finite number above 0",
    );
    line(
        "initial = 0.05",
        "initial = 0",
        "run.toml:14: learning_rate.initial = 0: expected a finite number above 0",
    );
    line(
        "initial = 0.05",
        "initial = 1e60",
        "run.toml:14: learning_rate.initial = 1e60: expected a finite number above 0; the value is too \
         large for a 32-bit float",
    );
    line(
        "initial = 0.05",
        "initial = 1e-60",
        "run.toml:14: learning_rate.initial = 1e-60: expected a finite number above 0; the value rounds to \
         0 as a 32-bit float",
    );
    line(
        "\"cosine\"",
        "\"cos\"",
        r#"run.toml:15: learning_rate.schedule = "cos": did you mean "cosine"? expected "constant", "piecewise", "step", "exponential", "inverse-time", "polynomial", "cosine", "cosine-restarts", "one-cycle", "plateau" or "armijo""#,
    );
    line(
        "\"cosine\"",
        "\"onecycle\"",
        r#"run.toml:15: learning_rate.schedule = "onecycle": did you mean "one-cycle"? expected "constant", "piecewise", "step", "exponential", "inverse-time", "polynomial", "cosine", "cosine-restarts", "one-cycle", "plateau" or "armijo""#,
    );
}

#[test]
fn keys_without_effect_are_refused() {
    line(
        "\"mlp\"",
        "\"softmax\"",
        r#"run.toml:7: model.hidden has no effect: model.kind is "softmax", but the key is only for "mlp"; remove this key or change model.kind"#,
    );
    line(
        "\"cosine\"",
        "\"cosine\"\npower = 2.0",
        r#"run.toml:16: learning_rate.power has no effect: learning_rate.schedule is "cosine", but the key is only for "polynomial"; remove this key or change learning_rate.schedule"#,
    );
    line(
        "schedule = \"cosine\"",
        "end = 0.001",
        r#"run.toml:15: learning_rate.end has no effect: learning_rate.schedule is "constant", but the key is only for "polynomial", "cosine", "cosine-restarts", "one-cycle", "plateau"; remove this key or change learning_rate.schedule"#,
    );
    line(
        "\"cosine\"",
        "\"cosine\"\nfactor = 0.1",
        r#"run.toml:16: learning_rate.factor has no effect: learning_rate.schedule is "cosine", but the key is only for "step", "exponential", "inverse-time", "plateau"; remove this key or change learning_rate.schedule"#,
    );
}

#[test]
fn missing_keys_are_named_with_an_example() {
    line(
        "train = \"digits:\"",
        "",
        r#"run.toml: data.train is missing: add a line such as train = "digits:" under [data]"#,
    );
    line(
        "kind = \"mlp\"",
        "",
        r#"run.toml: model.kind is missing: add a line such as kind = "softmax" under [model]"#,
    );
    line(
        "hidden = [32, 16]",
        "",
        "run.toml: model.hidden is missing: add a line such as hidden = [128] under [model]",
    );
    line(
        "initial = 0.05",
        "",
        "run.toml: learning_rate.initial is missing: add a line such as initial = 0.1 under [learning_rate]",
    );
    line(
        "\"cosine\"",
        "\"step\"",
        "run.toml: learning_rate.every is missing: add a line such as every = 1000 under [learning_rate]",
    );
    line(
        "\"cosine\"",
        "\"exponential\"\nevery = 100",
        "run.toml: learning_rate.factor is missing: add a line such as factor = 0.5 under [learning_rate]",
    );
    refused(
        parse(""),
        r#"run.toml: data.train is missing: add a line such as train = "digits:" under [data]"#,
    );
}

#[test]
fn invalid_toml_is_refused_with_its_line() {
    line("seed = 7", "seed 7", "run.toml:1: not valid TOML: key with no value, expected `=`");
    line(
        "seed = 7",
        "seed = ",
        "run.toml:1: not valid TOML: string values must be quoted, expected literal string",
    );
    line("batch = 64", "batch = 64\nbatch = 65", "run.toml:11: not valid TOML: duplicate key batch");
    line("[train]", "[data]", "run.toml:8: not valid TOML: duplicate key data");
    line("\"digits:\"", "\"digits:", r#"run.toml:3: not valid TOML: invalid basic string, expected `"`"#);
}

/// Asserts that `GOOD` with another `[learning_rate]` is refused with the message `expected`.
#[track_caller]
fn rates(new: &str, expected: &str) {
    line("initial = 0.05\nschedule = \"cosine\"", new, expected);
}

#[test]
fn conflicting_schedule_keys_are_refused() {
    let rate = "initial = 0.05";
    let then = |keys: &str| format!("{rate}\n[[learning_rate.then]]\n{keys}");
    rates(
        "initial = 0.05\nfrom = 3",
        "run.toml:15: learning_rate.from has no effect: it is only for later phases, [[learning_rate.then]]",
    );
    rates(
        &then("from = 3\ninitial = 1\nfor_batch = 8"),
        "run.toml:18: learning_rate.for_batch has no effect: it applies to the whole run; set it under \
         [learning_rate]",
    );
    rates(
        &then("initial = 1"),
        "run.toml: learning_rate.from is missing: add a line such as from = \"50%\" under [learning_rate]",
    );
    rates(
        &then("from = \"3 laps\"\ninitial = 1"),
        "run.toml:16: learning_rate.from = \"3 laps\": expected a number of steps of at least 1, or a string such as \"2 epochs\" or \"5%\" of the run",
    );
    rates(
        &then("from = 3\ninitial = 1\nschedule = \"piecewise\"\nat = [4]\nrates = [1]"),
        "run.toml:18: learning_rate.schedule = \"piecewise\": piecewise is not supported in a phase; write \
         each piece as a separate phase",
    );
    rates(
        "initial = 0.05\nschedule = \"piecewise\"\nat = [4, 5]\nrates = [1]",
        "run.toml:17: learning_rate.rates = [1]: expected 2 rates, one for each time in learning_rate.at",
    );
    rates(
        "initial = 0.05\nschedule = \"piecewise\"\nat = [4]\nrates = [1]\n[[learning_rate.then]]\nfrom = 3\ninitial = 1",
        "run.toml:16: learning_rate.at = [4]: piecewise cannot be combined with phases; write each piece as \
         a phase [[learning_rate.then]], or remove the phases",
    );
    rates(
        "initial = 0.05\nthen = [1]",
        "run.toml:15: learning_rate.then = [1]: expected an array of tables, [[learning_rate.then]]; the value is a list",
    );
}

#[test]
fn policies_that_need_a_validation_loss_require_validation_data() {
    let no_validation = |new: &str, expected: &str| {
        let text = GOOD.replace("validation = 0.1\n", "");
        refused(parse(&text.replace("schedule = \"cosine\"\n", new)), expected);
    };
    no_validation(
        "schedule = \"plateau\"\nfactor = 0.5\n",
        "run.toml:14: learning_rate.schedule = \"plateau\": plateau follows the validation loss; set \
         data.validation, for example to 0.1",
    );
    no_validation(
        "[[learning_rate.then]]\nfrom = 5\ninitial = 1\nschedule = \"plateau\"\nfactor = 0.5\n",
        "run.toml:14: learning_rate.then = [[learning_rate.then]]: plateau follows the validation loss; set \
         data.validation, for example to 0.1",
    );
    line(
        "batch = 64",
        "batch = 64\nmonitor = \"f1\"",
        "run.toml:11: train.monitor = \"f1\": only early stopping and plateau use it; set train.early_stopping, for \
         example to 5",
    );
    line(
        "batch = 64",
        "batch = 64\nearly_stopping = 3\nmonitor = \"mae\"",
        "run.toml:12: train.monitor = \"mae\": the model predicts classes, which have no MAE",
    );
    line(
        "batch = 64",
        "batch = 64\nmin_delta = 0.1",
        "run.toml:11: train.min_delta = 0.1: only early stopping uses it; set train.early_stopping, for \
         example to 5",
    );
    refused(
        parse(
            &GOOD.replace("validation = 0.1\n", "").replace("batch = 64", "batch = 64\nearly_stopping = 3"),
        ),
        "run.toml:10: train.early_stopping = 3: early stopping follows the validation loss; set \
         data.validation, for example to 0.1",
    );
    rates(
        "initial = 1\nschedule = \"armijo\"",
        "run.toml:15: learning_rate.schedule = \"armijo\": armijo compares losses at different weights, so \
         it needs the same samples in each step; set train.batch = \"full\", or choose another schedule",
    );
    let full = GOOD.replace("batch = 64", "batch = \"full\"").replace("momentum = 0.9\n", "");
    let descent = |rest: &str, expected: &str| {
        let rate = format!("initial = 0.05\nschedule = \"armijo\"\n{rest}");
        refused(parse(&full.replace("initial = 0.05\nschedule = \"cosine\"", &rate)), expected);
    };
    descent(
        "warmup = 3",
        "run.toml:15: learning_rate.warmup = 3: armijo supports only plain gradient steps; remove this key, \
         or choose another schedule",
    );
    descent("shrink = 1.5", "run.toml:15: learning_rate.shrink = 1.5: expected a number above 0 and below 1");
    descent(
        "[[learning_rate.then]]\nfrom = 5\ninitial = 1",
        "run.toml:15: learning_rate.then = [[learning_rate.then]]: armijo supports only plain gradient \
         steps; remove this key, or choose another schedule",
    );
    descent(
        "[guard]\nmode = \"recover\"",
        "run.toml:16: guard.mode = \"recover\": armijo supports only plain gradient steps; remove this key, \
         or choose another schedule",
    );
    rates(
        "initial = 1\n[[learning_rate.then]]\nfrom = 5\ninitial = 1\nschedule = \"armijo\"",
        "run.toml:18: learning_rate.schedule = \"armijo\": armijo is not supported in a phase; set it under \
         [learning_rate], for the whole run",
    );
    line(
        "momentum = 0.9",
        "kind = \"adam\"\nbeta1 = 1.0",
        "run.toml:13: optimizer.beta1 = 1.0: expected a number of at least 0 and below 1",
    );
    line(
        "momentum = 0.9",
        "kind = \"adam\"\nmomentum = 0.9",
        "run.toml:13: optimizer.momentum has no effect: optimizer.kind is \"adam\", but the key is only for \"sgd\", \"rmsprop\", \"lars\"; remove this key or \
         change optimizer.kind",
    );
    line(
        "momentum = 0.9",
        "kind = \"ftrl\"",
        "run.toml:12: optimizer.kind = \"ftrl\": ftrl starts from weights of 0, from which hidden layers \
         cannot learn; try \"adam\"",
    );
    line(
        "momentum = 0.9",
        "clip = 1.0\nclip_norm = 1.0",
        "run.toml:13: optimizer.clip_norm = 1.0: it cannot be combined with optimizer.clip; remove one of \
         them",
    );
    line(
        "momentum = 0.9",
        "kind = \"lamb\"\nclip_norm = 1.0",
        "run.toml:13: optimizer.clip_norm = 1.0: lamb's step does not depend on the norm of the gradient; \
         remove this key",
    );
    line(
        "momentum = 0.9",
        "noise_decay = 0.5",
        "run.toml:12: optimizer.noise_decay = 0.5: there is no noise that could decay; set optimizer.noise, \
         for example to 0.01",
    );
    line(
        "momentum = 0.9",
        "rates = { bias = 2.0 }",
        "run.toml:12: optimizer.rates = { bias = 2.0 }: unknown parameters bias; expected weights, biases, \
         or layers.0 to layers.2, optionally with .weight or .bias",
    );
    line(
        "momentum = 0.9",
        "rates = { \"layers.3\" = 2.0 }",
        "run.toml:12: optimizer.rates = { \"layers.3\" = 2.0 }: unknown parameters layers.3; expected \
         weights, biases, or layers.0 to layers.2, optionally with .weight or .bias",
    );
    line(
        "momentum = 0.9",
        "rates = { biases = -1.0 }",
        "run.toml:12: optimizer.rates = { biases = -1.0 }: expected a table of numbers above 0, such as { biases = 2.0, \"layers.0\" = 0.1 }",
    );
    line(
        "[optimizer]",
        "[guard]\nmode = \"recovr\"\n[optimizer]",
        "run.toml:12: guard.mode = \"recovr\": did you mean \"recover\"? expected \"off\", \"warn\" or \"recover\"",
    );
    line(
        "[optimizer]",
        "[guard]\nretries = 3\n[optimizer]",
        "run.toml:12: guard.retries has no effect: guard.mode is \"off\", but the key is only for \"recover\"; remove this key or change guard.mode",
    );
}

#[test]
fn phases_that_do_not_follow_one_another_are_refused() {
    let text = "data.train = 'digits:'\nmodel.kind = 'softmax'\n[train]\nbatch = 10\n[learning_rate]\ninitial = 1\n\
                [[learning_rate.then]]\nfrom = '2 epochs'\ninitial = 1\n[[learning_rate.then]]\nfrom = 15\ninitial = 1";
    let run = RunConfig::parse(text, "run.toml", &[]).unwrap();
    let error = run.rate(&run.plan(100, 0)).unwrap_err().to_string();
    assert_eq!(
        error,
        "learning_rate.from = 15: the phase begins at step 15, which is not after the beginning of the \
         previous phase at step 20; the run has 50 steps"
    );
    assert!(run.rate(&run.plan(50, 0)).is_ok());
}

#[test]
fn bad_flags_are_named() {
    refused(
        with(&["train.batch"]),
        "--set train.batch: expected KEY=VALUE, such as train.batch=256, or KEY= to unset a key",
    );
    refused(
        with(&["train.bacth=3"]),
        "--set train.bacth=3: unknown key train.bacth: did you mean train.batch?",
    );
    refused(with(&["batch=3"]), "--set batch=3: unknown key batch: did you mean train.batch?");
    refused(
        with(&["train=3"]),
        "--set train=3: unknown key train: train is a table; set one of its keys, such as train.epochs",
    );
    refused(
        with(&["train.batch=many"]),
        "--set train.batch=many: train.batch = many: expected an integer from 1 to 4294967295, or \"full\"",
    );
    refused(
        with(&["train.batch=-3"]),
        "--set train.batch=-3: train.batch = -3: expected an integer from 1 to 4294967295, or \"full\"",
    );
    refused(
        with(&["model.hidden=[3"]),
        "--set model.hidden=[3: not valid TOML: unclosed array, expected `]`",
    );
    refused(
        with(&["model.kind=softmx"]),
        r#"--set model.kind=softmx: model.kind = softmx: did you mean "softmax"? expected "linear", "logistic", "softmax", "poisson" or "mlp""#,
    );
    refused(
        with(&["model.kind=linear"]),
        r#"run.toml:7: model.hidden has no effect: model.kind is "linear", but the key is only for "mlp"; unset it with --set model.hidden= or change model.kind"#,
    );
    refused(
        with(&["train.leaf=128"]),
        "--set train.leaf=128: train.leaf = 128: a leaf cannot be larger than a batch; expected at most \
         train.batch = 64",
    );
    refused(
        with(&["train.batch=16", "train.leaf=17"]),
        "--set train.leaf=17: train.leaf = 17: a leaf cannot be larger than a batch; expected at most \
         train.batch = 16",
    );
}

#[test]
fn a_batch_larger_than_the_data_is_refused() {
    let run = parse(GOOD).unwrap();
    assert!(run.check_samples(64).is_ok());
    assert_eq!(
        run.check_samples(63).unwrap_err().to_string(),
        "train.batch = 64: the batch is larger than the training part of 63 samples; try --set train.batch=63"
    );
}

#[test]
fn a_missing_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("none.toml");
    let error = RunConfig::load(&path, &[]).unwrap_err().to_string();
    assert!(error.starts_with(&format!("{}: ", path.display())), "{error}");
    std::fs::write(&path, b"seed = \"\xff\"").unwrap();
    assert!(RunConfig::load(&path, &[]).unwrap_err().to_string().contains("UTF-8"));
    std::fs::write(&path, format!("\u{feff}{}", GOOD.replace('\n', "\r\n"))).unwrap();
    assert_eq!(RunConfig::load(&path, &[]).unwrap(), parse(GOOD).unwrap());
}

#[test]
fn a_run_file_must_be_a_small_regular_file() {
    let folder = tempfile::tempdir().unwrap();
    let refusal = |path: &std::path::Path| RunConfig::load(path, &[]).unwrap_err().to_string();
    assert!(refusal(folder.path()).contains("this is a directory"));
    let large = folder.path().join("large.toml");
    std::fs::File::create(&large).unwrap().set_len(1 << 40).unwrap();
    assert!(refusal(&large).contains("the file has 1.0 TiB; the limit for files of this kind is 16.0 MiB"));
    #[cfg(unix)]
    assert!(refusal("/dev/zero".as_ref()).contains("this is a device, not a regular file"));
}
