//! Races: competitors take turns, and the medians count.

use std::time::Instant;

/// How much time to spend on measurements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// About 90 seconds for all figures.
    Full,
    /// About 15 seconds for all figures.
    Quick,
}

impl Effort {
    /// Returns one of two values, depending on the effort.
    pub(crate) fn pick<T>(self, full: T, quick: T) -> T {
        match self {
            Effort::Full => full,
            Effort::Quick => quick,
        }
    }
}

/// A competitor of a race.
pub struct Entrant<'a> {
    /// Name of the figure that it produces.
    pub name: String,
    run: Box<dyn FnMut() + 'a>,
}

impl<'a> Entrant<'a> {
    /// Creates a competitor; `run` does its work once.
    pub fn new(name: impl Into<String>, run: impl FnMut() + 'a) -> Self {
        Entrant { name: name.into(), run: Box::new(run) }
    }

    fn seconds(&mut self, times: usize) -> f64 {
        let start = Instant::now();
        (0..times).for_each(|_| (self.run)());
        start.elapsed().as_secs_f64()
    }
}

/// Returns the seconds that each entrant takes to do its work once: the median over turns, in each of which
/// all entrants run one after the other. A turn repeats short work to reduce the error of reading the clock.
pub fn race(entrants: &mut [Entrant], effort: Effort) -> Vec<f64> {
    let turn = effort.pick(3e-3, 1e-3);
    let repeats: Vec<usize> = entrants
        .iter_mut()
        .map(|entrant| {
            // The first run allocates buffers and fills caches.
            entrant.seconds(1);
            let once = entrant.seconds(1).max(1e-9);
            ((turn / once) as usize).max(1)
        })
        .collect();
    let begun = Instant::now();
    let [fewest, max] = effort.pick([5, 41], [3, 7]);
    let mut times = vec![Vec::with_capacity(max); entrants.len()];
    let budget = effort.pick(0.2, 0.02) * entrants.len() as f64;
    while times.first().is_some_and(|times| {
        times.len() < fewest || times.len() < max && begun.elapsed().as_secs_f64() < budget
    }) {
        for ((entrant, times), &repeat) in entrants.iter_mut().zip(&mut times).zip(&repeats) {
            times.push(entrant.seconds(repeat) / repeat as f64);
        }
    }
    let median = |times| quantile(times, 0.5).expect("all have taken several turns");
    times.into_iter().map(median).collect()
}

/// Returns the quantile `at`, from 0 to 1, by nearest rank; `None` if there are no values.
pub(crate) fn quantile(mut values: Vec<f64>, at: f64) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let rank = (at * values.len() as f64).ceil() as usize;
    values.get(rank.max(1) - 1).or(values.last()).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_were_seen() {
        let values: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        let at = |share| quantile(values.clone(), share);
        assert_eq!([at(0.0), at(0.5), at(0.99), at(1.0)], [1.0, 50.0, 99.0, 100.0].map(Some));
        assert_eq!(quantile(vec![7.0], 0.99), Some(7.0));
        assert_eq!(quantile(Vec::new(), 0.5), None);
    }

    #[test]
    fn all_take_turns() {
        let mut turns = [0, 0];
        let [first, second] = &mut turns;
        let mut entrants = [Entrant::new("first", || *first += 1), Entrant::new("second", || *second += 1)];
        let times = race(&mut entrants, Effort::Quick);
        drop(entrants);
        assert_eq!(times.len(), 2);
        // One run to warm up, one to choose the number of repetitions, and at least three turns.
        assert!(turns.iter().all(|&turns| turns >= 5), "{turns:?}");
    }
}
