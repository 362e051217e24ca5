//! Competitors take turns; medians count.

use std::time::Instant;

/// How much time is spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// About a minute and a half for everything.
    Full,
    /// About a quarter of a minute.
    Quick,
}

impl Effort {
    /// One of two values.
    pub(crate) fn pick<T>(self, full: T, quick: T) -> T {
        match self {
            Effort::Full => full,
            Effort::Quick => quick,
        }
    }
}

/// One competitor.
pub struct Entrant<'a> {
    /// What it is called.
    pub name: String,
    run: Box<dyn FnMut() + 'a>,
}

impl<'a> Entrant<'a> {
    /// A competitor; `run` does its work once.
    pub fn new(name: impl Into<String>, run: impl FnMut() + 'a) -> Self {
        Entrant { name: name.into(), run: Box::new(run) }
    }

    fn seconds(&mut self, times: usize) -> f64 {
        let start = Instant::now();
        (0..times).for_each(|_| (self.run)());
        start.elapsed().as_secs_f64()
    }
}

/// Seconds that each entrant takes for its work once: the median over turns that all take one after the other. A turn
/// repeats what is short, so that no clock is read too often.
pub fn race(entrants: &mut [Entrant], effort: Effort) -> Vec<f64> {
    let turn = effort.pick(3e-3, 1e-3);
    let repeats: Vec<usize> = entrants
        .iter_mut()
        .map(|entrant| {
            // The first time, buffers are taken and caches filled.
            entrant.seconds(1);
            let once = entrant.seconds(1).max(1e-9);
            ((turn / once) as usize).max(1)
        })
        .collect();
    let begun = Instant::now();
    let [fewest, most] = effort.pick([5, 41], [3, 7]);
    let mut times = vec![Vec::with_capacity(most); entrants.len()];
    let budget = effort.pick(0.2, 0.02) * entrants.len() as f64;
    while times.first().is_some_and(|times| {
        times.len() < fewest || times.len() < most && begun.elapsed().as_secs_f64() < budget
    }) {
        for ((entrant, times), &repeat) in entrants.iter_mut().zip(&mut times).zip(&repeats) {
            times.push(entrant.seconds(repeat) / repeat as f64);
        }
    }
    let median = |times| quantile(times, 0.5).expect("all have taken several turns");
    times.into_iter().map(median).collect()
}

/// The value below which a share `at` of all lie, by nearest rank; `None` if there are no values.
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
        // Once to warm up, once to see how often a turn repeats it, and in three turns at least.
        assert!(turns.iter().all(|&turns| turns >= 5), "{turns:?}");
    }
}
