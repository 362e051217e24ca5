//! Trains on arrays in memory, saves the model, and predicts with the loaded copy.
//!
//! ```sh
//! cargo run -p downhill --example arrays
//! ```

use downhill::ndarray::{Array2, array};
use downhill::{Dataset, Model, Run};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // The price of a house by its area in m² and its age in years.
    let houses = Array2::from_shape_fn((400, 2), |(house, column)| match column {
        0 => 40.0 + (house * 37 % 160) as f32,
        _ => (house * 17 % 60) as f32,
    });
    let prices: Vec<f32> = houses.rows().into_iter().map(|row| 20.0 + 3.0 * row[0] - 1.5 * row[1]).collect();
    let data = Dataset::from_arrays(houses, prices)?.with_feature_names(["area", "age"])?;

    let trained = Run::new()
        .data(&data)
        .set("data.validation", 0.2)
        .set("data.standardize", true)
        .set("model.kind", "linear")
        .set("train.epochs", 60)
        .set("train.batch", 20)
        .set("learning_rate.initial", 0.05)
        .train()?;
    if let Some(validation) = &trained.summary.validation {
        println!("validation: {}", validation.line());
    }

    let file = std::env::temp_dir().join(format!("houses-{}.safetensors", std::process::id()));
    trained.model.save(&file)?;
    let model = Model::load(&file)?;
    std::fs::remove_file(&file)?;
    let predicted = model.predict(&Dataset::from_features(array![[100.0_f32, 10.0], [60.0, 50.0]]))?;
    for (price, expected) in predicted.values().column(0).iter().zip([305.0, 125.0]) {
        println!("predicted {price:.1}, expected {expected:.1}");
    }
    Ok(())
}
