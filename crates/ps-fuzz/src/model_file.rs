//! Model files, and rows for the models in them.

use crate::{Seed, choice, part, with_length};
use ps_config::RunConfig;
use ps_core::{Gradients, Kernel, Samples};
use ps_data::{NewData, RowBlocks, RowFormat, load_from_memory};
use ps_plan::BatchPlan;
use ps_run::{AboutModel, Job, SavedModel, task};
use std::collections::BTreeMap;

/// The key of the description in the metadata.
const KEY: &str = "downhill";

/// Reads a description, rows and a file from the input. If the first byte is odd, the description replaces that of
/// the file, whose lengths then fit, so that the code behind these checks is reached.
pub(crate) fn run(input: &[u8]) {
    let (choice, rest) = choice(input);
    let (description, rest) = part(rest);
    let (rows, file) = part(rest);
    let described = match choice % 2 {
        0 => None,
        _ => with_description(file, &String::from_utf8_lossy(description)),
    };
    let Ok(SavedModel { network, weights, about, .. }) =
        SavedModel::parse(described.as_deref().unwrap_or(file))
    else {
        return;
    };
    let bytes = about.to_bytes(&network, &weights).expect("it was read");
    let again = SavedModel::parse(&bytes).expect("a model that was read can be written and read again");
    assert_eq!(again.about, about);
    let new = NewData { is_labelled: false, is_strict: choice & 2 != 0 };
    let format = if choice & 4 == 0 { RowFormat::Csv } else { RowFormat::JsonLines };
    let encoder = about.encoding;
    let Ok(mut blocks) = RowBlocks::new(encoder, rows, "rows", format, Vec::new(), new) else { return };
    let plan = BatchPlan::new(0, 1, 1, 1, 1, None);
    let mut gradients = Gradients::new(network.clone(), plan, Kernel::detect()).of_evaluation();
    while let Ok(Some(block)) = blocks.next_block() {
        let predicted = gradients.predict(&weights, &block.split);
        assert_eq!(predicted.len(), block.split.len() * network.outputs());
    }
    assert!(blocks.notes().iter().all(|note| note.starts_with("rows: ")));
}

/// Replaces the description in a safetensors file; `None` if it is not one.
fn with_description(file: &[u8], description: &str) -> Option<Vec<u8>> {
    let (length, rest) = file.split_first_chunk::<8>()?;
    let (header, tensors) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
    let mut header: serde_json::Value = serde_json::from_slice(header).ok()?;
    header.as_object_mut()?.insert("__metadata__".into(), serde_json::json!({ KEY: description }));
    let header = header.to_string();
    Some([&(header.len() as u64).to_le_bytes(), header.as_bytes(), tensors].concat())
}

/// The description in a model file, and the file without it.
fn description(file: &[u8]) -> (String, Vec<u8>) {
    let (length, rest) = file.split_first_chunk::<8>().expect("a file has a length");
    let (header, tensors) = rest.split_at(u64::from_le_bytes(*length) as usize);
    let mut header: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(header).expect("a file has a header");
    let metadata = header.remove("__metadata__").expect("a model file has metadata");
    let description = metadata[KEY].as_str().expect("the description is a string").to_owned();
    let header = serde_json::Value::Object(header).to_string();
    (description, [&(header.len() as u64).to_le_bytes(), header.as_bytes(), tensors].concat())
}

pub(crate) fn seeds() -> Vec<Seed> {
    const TABLE: &str =
        "when,colour,size,id,kind\n2024-01-31,red,1,a,cat\n2023-05-06,blue,,b,dog\n2024-02-29,red,3,c,eel\n";
    const SETTINGS: &str = "missing = \"mean\"\nstandardize = true\n\
        columns = { id = \"ignore\", when = { kind = \"date\", parts = [\"weekday\", \"year\"] } }\n\
        [model]\nkind = \"mlp\"\nlayers = [{ kind = \"dense\", units = 5 }, { kind = \"tanh\" }, \
        { kind = \"dropout\", rate = 0.5 }, { kind = \"residual\", over = 2 }]\n";
    const SPARSE: &str = "1 2:0.5 5:1\n2.5 1:3\n";
    const NEW: &str = "size,colour,when,x\n2,red,2024-05-01,0\n,green,2023-12-31,1\n";
    const JSON: &str = "{\"size\": 2, \"colour\": \"red\", \"when\": \"2024-05-01\"}\n";
    let table = model("csv:data", TABLE, SETTINGS);
    let sparse = model("libsvm:data", SPARSE, "[model]\nkind = \"linear\"\n");
    let seed = |choice: u8, file: &[u8], rows: &str| {
        let (description, tensors) = description(file);
        [&[choice][..], &with_length(description.as_bytes()), &with_length(rows.as_bytes()), &tensors]
            .concat()
    };
    let whole = |file: &[u8]| [&[0][..], &with_length(b""), &with_length(b""), file].concat();
    vec![
        ("table", seed(1, &table, NEW)),
        ("table-strict", seed(3, &table, NEW)),
        ("table-json", seed(5, &table, JSON)),
        ("sparse", seed(1, &sparse, NEW)),
        ("whole", whole(&sparse)),
    ]
}

/// A model of this data before its first step.
fn model(source: &str, data: &str, settings: &str) -> Vec<u8> {
    let text = format!(
        "[data]\ntrain = \"{source}\"\n{settings}[train]\nepochs = 1\nbatch = 1\n[learning_rate]\ninitial = 1\n"
    );
    let run = RunConfig::parse(&text, "seed", &[]).expect("the run file is valid");
    let files = BTreeMap::from([("data".into(), data.as_bytes().to_vec())]);
    let data =
        load_from_memory(&run.data, task(run.model.head), run.seed, &files).expect("the data is valid");
    let job = Job::new(run, data, Kernel::detect()).expect("the run file fits the data");
    let weights = job.model.initial(1);
    let file = AboutModel::new(&job, None, &weights, 0).to_bytes(&job.model, &weights);
    let file = file.expect("a model can be written");
    // A new version of the program does not change the seeds.
    let (text, tensors) = description(&file);
    let version = format!("\"version\":\"{}\"", env!("CARGO_PKG_VERSION"));
    let file = with_description(&tensors, &text.replace(&version, "\"version\":\"0\""));
    file.inspect(|file| drop(SavedModel::parse(file).expect("a seed is valid"))).expect("it is a model file")
}
