//! Small tables of generated samples. Their values are exact in binary32 and in decimal, so that every
//! program and every machine reads the same numbers.

#![allow(dead_code)] // Each test uses a part.

use ps_core::Samples;
use ps_plan::seed::{Purpose, Stream};
use std::io::Write;
use std::path::Path;

/// The kind of targets of a generated table.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Targets {
    /// Any real number.
    Value,
    /// The numbers 0 and 1.
    Binary,
    /// Class numbers from 0 to this, exclusive.
    Classes(usize),
    /// Counts from 0 to 4.
    Count,
}

/// Samples in memory; the features are `[targets.len(), features]`.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    pub features: usize,
    pub values: Vec<f32>,
    pub targets: Vec<f32>,
}

/// Generates a table with features that are multiples of 1/64 in -1..1, and targets with some noise.
pub(crate) fn table(seed: u64, samples: usize, features: usize, targets: Targets) -> Table {
    let mut stream = Stream::new(seed, Purpose::Simulation, 0);
    let slopes: Vec<f32> = (0..features).map(|_| stream.below(17) as f32 / 8.0 - 1.0).collect();
    let mut made = Table { features, values: Vec::new(), targets: Vec::new() };
    for _ in 0..samples {
        let row: Vec<f32> = (0..features).map(|_| stream.below(128) as f32 / 64.0 - 1.0).collect();
        let noise = stream.below(64) as f32 / 64.0 - 0.5;
        // Sums of multiples of 1/512 below 2^14 are exact in any order.
        let score = row.iter().zip(&slopes).map(|(x, slope)| x * slope).sum::<f32>() + noise;
        made.targets.push(match targets {
            Targets::Value => score,
            Targets::Binary => f32::from(score > 0.0),
            Targets::Classes(classes) => (score * 2.0).floor().rem_euclid(classes as f32),
            Targets::Count => score.abs().floor().min(4.0),
        });
        made.values.extend(row);
    }
    made
}

impl Samples for Table {
    fn len(&self) -> usize {
        self.targets.len()
    }

    fn features(&self) -> usize {
        self.features
    }

    fn write_row(&self, index: usize, row: &mut [f32]) {
        row.copy_from_slice(&self.values[index * self.features..][..self.features]);
    }

    fn target(&self, index: usize) -> f32 {
        self.targets[index]
    }
}

impl Table {
    /// Writes the table as a CSV file. The column `label` contains `name` of the target.
    pub(crate) fn write_csv(&self, path: &Path, name: impl Fn(f32) -> String) {
        let mut text: String = (0..self.features).map(|feature| format!("x{feature},")).collect();
        text += "label\n";
        for (row, &target) in self.values.chunks(self.features).zip(&self.targets) {
            row.iter().for_each(|value| text += &format!("{value},"));
            text += &name(target);
            text += "\n";
        }
        std::fs::write(path, text).unwrap();
    }

    /// Writes the table as uncompressed IDX files, with its values mapped to bytes.
    pub(crate) fn write_idx(&self, images: &Path, labels: &Path) {
        let mut file = std::fs::File::create(images).unwrap();
        for number in [0x803, self.len() as u32, 1, self.features as u32] {
            file.write_all(&number.to_be_bytes()).unwrap();
        }
        let bytes: Vec<u8> = self.values.iter().map(|value| (value * 127.0 + 128.0) as u8).collect();
        file.write_all(&bytes).unwrap();
        let mut file = std::fs::File::create(labels).unwrap();
        for number in [0x801, self.len() as u32] {
            file.write_all(&number.to_be_bytes()).unwrap();
        }
        let bytes: Vec<u8> = self.targets.iter().map(|&target| target as u8).collect();
        file.write_all(&bytes).unwrap();
    }
}
