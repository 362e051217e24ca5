//! Serves predictions over HTTP, with axum.
//!
//! ```sh
//! downhill train examples/iris.toml --out runs/iris
//! cargo run -p downhill --example web_handler -- runs/iris 127.0.0.1:8080
//! curl -d '{"rows": [[5.1, 3.5, 1.4, 0.2]]}' -H 'content-type: application/json' http://127.0.0.1:8080/predict
//! ```

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use downhill::ndarray::Array2;
use downhill::{Dataset, Model};
use serde::{Deserialize, Serialize};

/// Samples to predict, each with its features in the order of [`Model::feature_names`].
#[derive(Deserialize)]
struct Request {
    rows: Vec<Vec<f32>>,
}

#[derive(Serialize)]
struct Response {
    /// The most probable class of each sample; none for regression and counts.
    classes: Option<Vec<String>>,
    /// By sample, the probability of each class, or the predicted value.
    values: Vec<Vec<f32>>,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [path, address] = &arguments[..] else { return Err("usage: web_handler MODEL HOST:PORT".into()) };
    // A model and its clones share their weights and threads, so one serves all requests.
    let model = Model::load(path)?;
    let app = Router::new().route("/predict", post(predict)).with_state(model);
    let listener = tokio::net::TcpListener::bind(address).await?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, app).await?;
    Ok(())
}

async fn predict(
    State(model): State<Model>,
    Json(request): Json<Request>,
) -> Result<Json<Response>, (StatusCode, String)> {
    // Predictions keep a thread busy, so they must not run on those that serve connections.
    let predicted = tokio::task::spawn_blocking(move || answer(&model, request)).await;
    match predicted {
        Ok(Ok(response)) => Ok(Json(response)),
        Ok(Err(problem)) => Err((StatusCode::BAD_REQUEST, problem)),
        Err(_) => Err((StatusCode::INTERNAL_SERVER_ERROR, "the prediction failed".into())),
    }
}

fn answer(model: &Model, request: Request) -> Result<Response, String> {
    let (samples, features) = (request.rows.len(), model.feature_names().len());
    let values: Vec<f32> = request.rows.into_iter().flatten().collect();
    let rows = Array2::from_shape_vec((samples, features), values)
        .map_err(|_| format!("each row must have {features} features"))?;
    let predicted = model.predict(&Dataset::from_features(rows)).map_err(|error| error.to_string())?;
    let name = |class: usize| predicted.class_names()[class].clone();
    Ok(Response {
        classes: predicted.classes().map(|classes| classes.into_iter().map(name).collect()),
        values: predicted.values().rows().into_iter().map(|row| row.to_vec()).collect(),
    })
}
