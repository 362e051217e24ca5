//! Models are saved and loaded, and carry the names and the run file that they were trained with.

use crate::{short, table};
use downhill::{Dataset, ErrorKind, LoadOptions, Model, Run, Scores};

fn is_for_threads<T: Send + Sync + Clone + 'static>() {}

#[test]
fn runs_data_sets_and_models_can_be_shared_between_threads() {
    is_for_threads::<Run>();
    is_for_threads::<Dataset>();
    is_for_threads::<Model>();
}

#[test]
fn a_model_is_loaded_from_its_results_folder_and_from_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let data = table(folder.path(), "train.csv", 60);
    let (out, file) = (folder.path().join("out"), folder.path().join("model.safetensors"));
    let trained = short().set("data.train", data.as_str()).out(&out).train().unwrap();
    trained.model.save(&file).unwrap();
    // A saved model is byte for byte the file in the results folder.
    assert_eq!(std::fs::read(&file).unwrap(), std::fs::read(out.join("weights.safetensors")).unwrap());
    let data = Dataset::open(&data).unwrap();
    let evaluation = trained.model.evaluate(&data).unwrap();
    assert_eq!(evaluation.measures.samples, 60);
    let Scores::Classes(scores) = &evaluation.scores else { panic!("{evaluation:?}") };
    assert_eq!(scores.classes.iter().map(|class| class.samples).sum::<u64>(), 60);
    for path in [out, file] {
        assert_eq!(
            Model::load_with(path, &LoadOptions::new().threads(2)).unwrap().evaluate(&data).unwrap(),
            evaluation
        );
    }
}

#[test]
fn a_model_needs_nothing_but_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.safetensors");
    let [train, new] = ["train.csv", "new.csv"].map(|name| table(folder.path(), name, 60));
    let model = short().set("data.train", train.as_str()).train().unwrap().model;
    model.save(&file).unwrap();
    std::fs::remove_file(folder.path().join("train.csv")).unwrap();
    let (loaded, new) = (Model::load(&file).unwrap(), Dataset::open(&new).unwrap());
    assert_eq!(loaded.weights(), model.weights());
    assert_eq!(loaded.predict(&new).unwrap(), model.predict(&new).unwrap());
    assert_eq!(loaded.evaluate(&new).unwrap(), model.evaluate(&new).unwrap());
}

#[test]
fn a_file_that_is_no_model_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.safetensors");
    std::fs::write(&file, "nothing").unwrap();
    let error = Model::load(&file).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Files);
    assert!(error.to_string().contains("model.safetensors: no safetensors file"), "{error}");
}
