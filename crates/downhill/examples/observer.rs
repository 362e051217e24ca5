//! Observes a run: prints each epoch, and stops the run once it is good enough.
//!
//! ```sh
//! cargo run -p downhill --example observer
//! ```

use downhill::report::{EpochLine, Event};
use downhill::{Observer, Requests, Run};

/// Stops a run at a validation accuracy.
struct GoodEnough(f64);

impl Observer for GoodEnough {
    fn on_epoch(&mut self, epoch: &EpochLine, requests: &mut Requests) {
        let Some(validation) = &epoch.validation else { return };
        println!("epoch {}: {}", epoch.epoch, validation.line());
        if validation.accuracy >= Some(self.0) {
            requests.stop();
        }
    }

    fn on_event(&mut self, step: u64, event: &Event, _: &mut Requests) {
        println!("after step {step}: {event:?}");
    }
}

fn main() -> Result<(), downhill::Error> {
    let run = Run::new()
        .set("data.train", "digits:2000")
        .set("data.validation", 0.2)
        .set("model.kind", "mlp")
        .set("model.hidden", vec![32_i64])
        .set("train.epochs", 20)
        .set("train.batch", 50)
        .set("learning_rate.initial", 0.1);
    let trained = run.train_observed(vec![Box::new(GoodEnough(0.9))])?;
    println!("stopped after {} of {} steps", trained.summary.steps, trained.summary.steps_planned);
    Ok(())
}
