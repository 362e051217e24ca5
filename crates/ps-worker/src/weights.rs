//! The weights that a worker holds, and those that are arriving.

use ps_core::Precision;
use ps_core::precision::decode_bf16;
use ps_proto::convert::WeightsPart;
use ps_proto::limits::chunk_elements;
use ps_proto::tensor;

/// Weights of two versions: those of the step in hand stay until work for the next step comes, whatever of that one's
/// has arrived, for the server may ask for leaves of the step again.
pub(crate) struct HeldWeights {
    parameters: usize,
    precision: Precision,
    versions: [Version; 2],
}

/// The weights of one version, as far as they are here.
#[derive(Default)]
struct Version {
    version: Option<u64>,
    /// `[parameters]`, once there were any.
    values: Vec<f32>,
    /// Whether each chunk is here.
    arrived: Vec<bool>,
    /// So many of the first chunks are.
    leading: usize,
}

impl HeldWeights {
    /// None yet, of so many.
    pub(crate) fn new(parameters: usize, precision: Precision) -> Self {
        HeldWeights { parameters, precision, versions: Default::default() }
    }

    /// How many of the first weights of `version` are here, and all of them, `[parameters]`, if there are any.
    pub(crate) fn of(&self, version: u64) -> Option<(usize, &[f32])> {
        let held = self.versions.iter().find(|held| held.version == Some(version))?;
        let here = held.leading * chunk_elements(self.parameters);
        Some((here.min(self.parameters), &held.values))
    }

    /// Whether the weights of `version` are here or can still come: they have not made way for newer ones.
    pub(crate) fn may_become(&self, version: u64) -> bool {
        self.versions.iter().any(|held| held.version.is_none_or(|held| held <= version))
    }

    /// Takes a chunk that was checked where it arrived. Copies and old ones change nothing.
    pub(crate) fn take(&mut self, part: WeightsPart) {
        let WeightsPart { version, offset, bytes } = part;
        // None is less than any version, so an unused place comes before the older of two versions. Weights two
        // steps on are made only when nobody can ask for the older ones any more.
        self.versions.sort_by_key(|held| held.version);
        let known = self.versions.iter().position(|held| held.version == Some(version));
        if known.is_none() {
            if self.versions[0].version.is_some_and(|older| version < older) {
                return;
            }
            self.versions[0].begin(version, self.parameters);
        }
        let arriving = &mut self.versions[known.unwrap_or(0)];
        let chunk = offset / chunk_elements(self.parameters);
        if std::mem::replace(&mut arriving.arrived[chunk], true) {
            return;
        }
        let values = &mut arriving.values[offset..offset + bytes.len() / self.precision.bytes()];
        match self.precision {
            Precision::F32 => tensor::read(&bytes, values),
            Precision::Bf16 => decode_bf16(&bytes, values),
        }
        let further = &arriving.arrived[arriving.leading..];
        arriving.leading += further.iter().take_while(|&&arrived| arrived).count();
    }

    /// The connection is lost: another server may have other weights of the same version number.
    pub(crate) fn forget(&mut self) {
        self.versions.iter_mut().for_each(|held| held.version = None);
    }
}

impl Version {
    fn begin(&mut self, version: u64, parameters: usize) {
        let chunks = parameters.div_ceil(chunk_elements(parameters));
        self.version = Some(version);
        self.values.resize(parameters, 0.0);
        self.arrived.clear();
        self.arrived.resize(chunks, false);
        self.leading = 0;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    /// Parameters of three chunks.
    const PARAMETERS: usize = 150_000;

    fn part(version: u64, chunk: usize) -> WeightsPart {
        let size = chunk_elements(PARAMETERS);
        let offset = chunk * size;
        let values = vec![(10 * version) as f32 + chunk as f32; size.min(PARAMETERS - offset)];
        WeightsPart { version, offset, bytes: tensor::share(values) }
    }

    fn take(weights: &mut HeldWeights, parts: &[(u64, usize)]) {
        parts.iter().for_each(|&(version, chunk)| weights.take(part(version, chunk)));
    }

    /// The first and the last of the weights of a version, if it is whole.
    fn ends(weights: &HeldWeights, version: u64) -> Option<[f32; 2]> {
        let (_, values) = weights.of(version).filter(|&(here, _)| here == PARAMETERS)?;
        Some([values[0], values[PARAMETERS - 1]])
    }

    #[test]
    fn chunks_come_in_any_order_and_more_than_once() {
        let mut weights = HeldWeights::new(PARAMETERS, Precision::F32);
        take(&mut weights, &[(0, 2), (0, 0), (0, 0)]);
        assert_eq!(ends(&weights, 0), None);
        take(&mut weights, &[(0, 1)]);
        assert_eq!(ends(&weights, 0), Some([0.0, 2.0]));
    }

    #[test]
    fn the_first_weights_are_of_use_before_the_last_ones_are_here() {
        let mut weights = HeldWeights::new(PARAMETERS, Precision::F32);
        assert!(weights.of(0).is_none());
        let here = |weights: &HeldWeights| weights.of(0).unwrap().0;
        take(&mut weights, &[(0, 2)]);
        assert_eq!(here(&weights), 0);
        take(&mut weights, &[(0, 0)]);
        assert_eq!(here(&weights), chunk_elements(PARAMETERS));
        take(&mut weights, &[(0, 1)]);
        assert_eq!(here(&weights), PARAMETERS);
    }

    #[test]
    fn weights_stay_although_all_of_the_next_ones_are_here() {
        let mut weights = HeldWeights::new(PARAMETERS, Precision::F32);
        take(&mut weights, &[(4, 0), (5, 0), (4, 1), (5, 1), (4, 2), (5, 2)]);
        assert_eq!([ends(&weights, 4), ends(&weights, 5)], [Some([40.0, 42.0]), Some([50.0, 52.0])]);
        assert!(weights.may_become(4) && weights.may_become(9));
        take(&mut weights, &[(6, 1), (4, 0)]);
        assert_eq!([ends(&weights, 4), ends(&weights, 5)], [None, Some([50.0, 52.0])]);
        assert!(!weights.may_become(4));
        weights.forget();
        assert_eq!(ends(&weights, 5), None);
        take(&mut weights, &[(0, 0), (0, 1), (0, 2)]);
        assert_eq!(ends(&weights, 0), Some([0.0, 2.0]));
    }

    #[test]
    fn weights_that_travel_as_halves_are_widened() {
        let mut weights = HeldWeights::new(2, Precision::Bf16);
        weights.take(WeightsPart { version: 0, offset: 0, bytes: vec![0x80, 0x3f, 0, 0xc0].into() });
        assert_eq!(weights.of(0), Some((2, &[1.0, -2.0][..])));
    }
}
