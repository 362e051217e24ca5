//! The weights that a worker holds, and those that are arriving.

use ps_core::Precision;
use ps_core::precision::decode_bf16;
use ps_proto::convert::WeightsChunk;
use ps_proto::limits::chunk_elements;
use ps_proto::tensor;

/// Weights of two versions. Those of the open step stay until work for the next step arrives, even if newer
/// weights are here, because the server may assign leaves of the open step again.
pub(crate) struct HeldWeights {
    parameters: usize,
    precision: Precision,
    versions: [Version; 2],
}

/// The weights of one version, complete or in part.
#[derive(Default)]
struct Version {
    version: Option<u64>,
    /// `[parameters]`; empty until a version was held.
    values: Vec<f32>,
    /// Whether each chunk is here.
    arrived: Vec<bool>,
    /// Length of the run of chunks at the beginning that are all here.
    leading: usize,
}

impl HeldWeights {
    /// Creates an empty holder for `parameters` weights.
    pub(crate) fn new(parameters: usize, precision: Precision) -> Self {
        HeldWeights { parameters, precision, versions: Default::default() }
    }

    /// The number of weights of `version` that are here from the beginning on, and all of them,
    /// `[parameters]`; `None` if no chunk of that version is held.
    pub(crate) fn of(&self, version: u64) -> Option<(usize, &[f32])> {
        let held = self.versions.iter().find(|held| held.version == Some(version))?;
        let here = held.leading * chunk_elements(self.parameters);
        Some((here.min(self.parameters), &held.values))
    }

    /// Whether the weights of `version` are here or can still arrive, because newer ones have
    /// not replaced them.
    pub(crate) fn may_become(&self, version: u64) -> bool {
        self.versions.iter().any(|held| held.version.is_none_or(|held| held <= version))
    }

    /// Takes a chunk that was checked on arrival. Duplicates and chunks of old versions are ignored.
    pub(crate) fn take(&mut self, part: WeightsChunk) {
        let WeightsChunk { version, offset, bytes } = part;
        // `None` sorts before any version, so an unused entry is replaced before the older of two versions.
        // Weights two steps ahead exist only when nobody can assign leaves of the older step any more.
        self.versions.sort_by_key(|held| held.version);
        let known = self.versions.iter().position(|held| held.version == Some(version));
        if known.is_none() {
            // Both held versions are newer, so nobody asks for this one any more.
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

    /// The connection is lost: another server may have different weights under the same version number.
    pub(crate) fn forget(&mut self) {
        self.versions.iter_mut().for_each(|held| held.version = None);
    }
}

impl Version {
    fn begin(&mut self, version: u64, parameters: usize) {
        let chunks = parameters.div_ceil(chunk_elements(parameters));
        self.version = Some(version);
        // The values of an older version may remain, because only chunks that have arrived are ever read.
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

    fn part(version: u64, chunk: usize) -> WeightsChunk {
        let size = chunk_elements(PARAMETERS);
        let offset = chunk * size;
        let values = vec![(10 * version) as f32 + chunk as f32; size.min(PARAMETERS - offset)];
        WeightsChunk { version, offset, bytes: tensor::share(values) }
    }

    fn take(weights: &mut HeldWeights, parts: &[(u64, usize)]) {
        parts.iter().for_each(|&(version, chunk)| weights.take(part(version, chunk)));
    }

    /// The first and the last weight of a version, if it is complete.
    fn ends(weights: &HeldWeights, version: u64) -> Option<[f32; 2]> {
        let (_, values) = weights.of(version).filter(|&(here, _)| here == PARAMETERS)?;
        Some([values[0], values[PARAMETERS - 1]])
    }

    #[test]
    fn chunks_may_arrive_in_any_order_and_repeatedly() {
        let mut weights = HeldWeights::new(PARAMETERS, Precision::F32);
        take(&mut weights, &[(0, 2), (0, 0), (0, 0)]);
        assert_eq!(ends(&weights, 0), None);
        take(&mut weights, &[(0, 1)]);
        assert_eq!(ends(&weights, 0), Some([0.0, 2.0]));
    }

    #[test]
    fn the_first_weights_can_be_used_before_the_last_arrive() {
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
    fn weights_are_kept_when_the_next_version_is_complete() {
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
    fn bfloat16_weights_are_widened() {
        let mut weights = HeldWeights::new(2, Precision::Bf16);
        weights.take(WeightsChunk { version: 0, offset: 0, bytes: vec![0x80, 0x3f, 0, 0xc0].into() });
        assert_eq!(weights.of(0), Some((2, &[1.0, -2.0][..])));
    }
}
