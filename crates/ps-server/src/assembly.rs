//! Assembles vectors from the chunks of this server and those fetched from the other shards.

use bytes::Bytes;
use ps_plane::OptimizerStateChunk;
use ps_proto::tensor;
use ps_run::Job;

/// Chunks from the other shards by vector, the weights first, each with its first element.
#[derive(Default)]
pub(crate) struct Fetched(Vec<Vec<(usize, Bytes)>>);

impl Fetched {
    /// Keeps a chunk of a vector; vector 0 is the weights.
    pub(crate) fn keep(&mut self, vector: usize, offset: usize, bytes: Bytes) {
        if self.0.len() <= vector {
            self.0.resize(vector + 1, Vec::new());
        }
        self.0[vector].push((offset, bytes));
    }

    fn vector(&self, vector: usize) -> &[(usize, Bytes)] {
        self.0.get(vector).map_or(&[], |chunks| chunks)
    }
}

/// The coordinator's part of a checkpoint.
pub(crate) struct OwnChunks {
    pub progress: ps_checkpoint::Progress,
    pub weights: Vec<(usize, Bytes)>,
    pub state: Vec<OptimizerStateChunk>,
}

impl OwnChunks {
    /// The complete weights and state, including the parts of the other shards.
    pub(crate) fn assemble(
        self,
        job: &Job,
        fetched: Option<&Fetched>,
    ) -> (ps_checkpoint::Progress, Vec<f32>, Vec<f32>) {
        let parameters = job.model.parameters();
        let vector = |vector: usize| {
            let own = self.state.iter().filter(|part| part.vector == vector);
            let own: Vec<_> = own.map(|part| (part.offset, part.bytes.clone())).collect();
            assemble(parameters, &own, fetched, 1 + vector)
        };
        let state: Vec<Vec<f32>> = (0..job.control().vectors().len()).map(vector).collect();
        (self.progress, assemble(parameters, &self.weights, fetched, 0), state.concat())
    }
}

/// Assembles a flat vector, `[elements]`, from the chunks of this server and the fetched ones.
pub(crate) fn assemble(
    elements: usize,
    own: &[(usize, Bytes)],
    fetched: Option<&Fetched>,
    vector: usize,
) -> Vec<f32> {
    let (mut values, mut missing) = (vec![0.0; elements], elements);
    for (offset, bytes) in own.iter().chain(fetched.map_or(&[][..], |fetched| fetched.vector(vector))) {
        let count = bytes.len() / 4;
        tensor::read(bytes, &mut values[*offset..*offset + count]);
        missing -= count;
    }
    assert_eq!(missing, 0, "a vector is put together only when all of its chunks are here");
    values
}
