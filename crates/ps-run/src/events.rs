//! Messages for the events of [`ps_core::control`].

use ps_core::control::{Convergence, ConvergenceCriterion, Event, Explosion, Monitor, Stop};

/// Says what happened and why.
pub(crate) fn text(event: &Event) -> String {
    match *event {
        Event::Lowered { monitor, value, best, patience, rates: [from, to] } => {
            let validations = match patience {
                0 => "this validation".into(),
                patience => format!("{} validations in a row", patience + 1),
            };
            let metric = monitor.name();
            format!(
                "the validation {metric} is {value:.6} and did not improve on the best, {best:.6}, in \
                 {validations}: learning rate {from} lowered to {to}"
            )
        }
        Event::Recovered { explosion, step, rate, recovery, retries } => format!(
            "{}; back to the weights of step {step}, learning rate {rate:.6} (recovery {recovery} of {retries})",
            explained(explosion)
        ),
        Event::Warned { explosion, retries: Some(retries) } => {
            format!("{}; all {retries} recoveries are used up, so the run continues", explained(explosion))
        }
        Event::Warned { explosion, retries: None } => {
            format!("{}; set guard.mode = \"recover\" to go back and lower the rate", explained(explosion))
        }
        Event::Stopped(Stop::NoImprovement { monitor, best, validations, step }) => format!(
            "stopped early: the validation {} did not {} {best:.6} in {validations} validations; \
             restored the weights after step {step}",
            monitor.name(),
            if monitor.is_maximized() { "rise above" } else { "fall below" }
        ),
        Event::Stopped(Stop::Converged(Convergence { loss, criterion, tolerance })) => {
            let why = match criterion {
                ConvergenceCriterion::GradientNorm(norm) => format!("the norm of the gradient is {norm:.3e}"),
                ConvergenceCriterion::PredictedDecrease(fall) => {
                    format!("the predicted decrease was {fall:.3e}")
                }
                ConvergenceCriterion::Decrease(fall) => format!("the loss fell by {fall:.3e}"),
                ConvergenceCriterion::NoStep(fall) => {
                    format!("no step lowers it, and the next one is predicted to by only {fall:.3e}")
                }
            };
            format!("converged at loss {loss:.9}: {why}, at most {tolerance:.3e}")
        }
        Event::Restored { monitor, value, best, step } => format!(
            "the validation {} is {value:.6}, not {} the best, {best:.6}: restored the weights after \
             step {step}",
            monitor.name(),
            beyond(monitor)
        ),
    }
}

/// Where better values of a metric are.
fn beyond(monitor: Monitor) -> &'static str {
    if monitor.is_maximized() { "above" } else { "below" }
}

fn explained(explosion: Explosion) -> String {
    let above =
        |what, value, limit| format!("the {what} is {}, above the limit of {}", shown(value), shown(limit));
    match explosion {
        Explosion::NotFinite => "the loss or the gradient is not finite".into(),
        Explosion::Mean { value, limit } => above("running mean of the loss", value, limit),
        Explosion::Loss { value, limit } => above("loss", value, limit),
    }
}

/// Formats a loss with a sensible number of digits.
fn shown(loss: f64) -> String {
    if loss.abs() < 1e6 { format!("{loss:.4}") } else { format!("{loss:.3e}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_says_what_happened_and_why() {
        let above = Explosion::Mean { value: 12.34567, limit: 3e7 };
        let converged = |criterion| {
            Event::Stopped(Stop::Converged(Convergence { loss: 0.5, criterion, tolerance: 1e-9 }))
        };
        for (event, wanted) in [
            (
                Event::Lowered {
                    monitor: Monitor::Loss,
                    value: 0.25,
                    best: 0.2,
                    patience: 0,
                    rates: [0.1, 0.05],
                },
                "the validation loss is 0.250000 and did not improve on the best, 0.200000, in this validation: \
                 learning rate 0.1 lowered to 0.05",
            ),
            (
                Event::Lowered {
                    monitor: Monitor::Loss,
                    value: 0.25,
                    best: 0.2,
                    patience: 2,
                    rates: [0.1, 0.05],
                },
                "the validation loss is 0.250000 and did not improve on the best, 0.200000, in 3 \
                 validations in a row: learning rate 0.1 lowered to 0.05",
            ),
            (
                Event::Recovered { explosion: above, step: 40, rate: 0.05, recovery: 1, retries: 10 },
                "the running mean of the loss is 12.3457, above the limit of 3.000e7; back to the weights of step 40, learning \
                 rate 0.050000 (recovery 1 of 10)",
            ),
            (
                Event::Warned { explosion: Explosion::Loss { value: 9.0, limit: 8.0 }, retries: Some(3) },
                "the loss is 9.0000, above the limit of 8.0000; all 3 recoveries are used up, so the run \
                 continues",
            ),
            (
                Event::Warned { explosion: Explosion::NotFinite, retries: None },
                "the loss or the gradient is not finite; set guard.mode = \"recover\" to go back and lower \
                 the rate",
            ),
            (
                Event::Stopped(Stop::NoImprovement {
                    monitor: Monitor::Loss,
                    best: 0.2,
                    validations: 5,
                    step: 30,
                }),
                "stopped early: the validation loss did not fall below 0.200000 in 5 validations; restored \
                 the weights after step 30",
            ),
            (
                converged(ConvergenceCriterion::GradientNorm(1e-10)),
                "converged at loss 0.500000000: the norm of the gradient is 1.000e-10, at most 1.000e-9",
            ),
            (
                converged(ConvergenceCriterion::PredictedDecrease(1e-10)),
                "converged at loss 0.500000000: the predicted decrease was 1.000e-10, at most 1.000e-9",
            ),
            (
                converged(ConvergenceCriterion::Decrease(1e-10)),
                "converged at loss 0.500000000: the loss fell by 1.000e-10, at most 1.000e-9",
            ),
            (
                converged(ConvergenceCriterion::NoStep(1e-10)),
                "converged at loss 0.500000000: no step lowers it, and the next one is predicted to by only \
                 1.000e-10, at most 1.000e-9",
            ),
            (
                Event::Stopped(Stop::NoImprovement {
                    monitor: Monitor::F1,
                    best: 0.2,
                    validations: 5,
                    step: 30,
                }),
                "stopped early: the validation F1 did not rise above 0.200000 in 5 validations; restored the \
                 weights after step 30",
            ),
            (
                Event::Restored { monitor: Monitor::Loss, value: 0.25, best: 0.2, step: 30 },
                "the validation loss is 0.250000, not below the best, 0.200000: restored the weights after \
                 step 30",
            ),
        ] {
            assert_eq!(text(&event), wanted);
        }
    }
}
