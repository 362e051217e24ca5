//! How the training data says every source is to be encoded.

use crate::config::{DataConfig, Missing};
use crate::dataset::{Dataset, Features, Image, Task};
use crate::error::DataError;
use crate::raw::{Pixels, Raw};

/// Learnt from the training source, applied to all.
#[derive(Clone, Debug)]
pub(crate) struct Encoding {
    pub task: Task,
    pub feature_names: Vec<String>,
    pub class_names: Vec<String>,
    pub image: Option<Image>,
}

impl Encoding {
    /// What `raw`, the training source, asks for.
    pub fn learn(raw: &Raw, _config: &DataConfig, task: Task) -> Result<Self, DataError> {
        match raw {
            Raw::Pixels(pixels) => learn_pixels(pixels, task),
        }
    }

    /// Encodes `raw`; `labelled` says whether targets are wanted.
    pub fn encode(
        &self,
        raw: Raw,
        source: &str,
        _missing: Missing,
        labelled: bool,
    ) -> Result<Dataset, DataError> {
        let (features, targets) = match raw {
            Raw::Pixels(pixels) => {
                let targets = if labelled { self.byte_targets(&pixels)? } else { Vec::new() };
                self.check_width(&pixels)?;
                (Features::U8(pixels.pixels), targets)
            }
        };
        Ok(Dataset {
            features,
            targets,
            feature_names: self.feature_names.clone(),
            class_names: self.class_names.clone(),
            image: self.image,
            source: source.into(),
        })
    }

    fn byte_targets(&self, pixels: &Pixels) -> Result<Vec<f32>, DataError> {
        let labels = required(pixels)?;
        let classes = self.class_names.len();
        if self.task.has_classes()
            && let Some(item) = labels.iter().position(|&label| usize::from(label) >= classes)
        {
            let problem = format!(
                "label {} is out of range, the training data's classes are 0 to {}",
                labels[item],
                classes - 1
            );
            return Err(DataError::content(format!("{}: item {item}", pixels.labels_place), problem));
        }
        Ok(labels.iter().map(|&label| f32::from(label)).collect())
    }

    fn check_width(&self, pixels: &Pixels) -> Result<(), DataError> {
        let shape = |image: Option<Image>, width| match image {
            Some(Image { height, width }) => format!("images of {height}x{width}"),
            None => format!("{width} values each"),
        };
        let width = pixels.pixels.ncols();
        if width == self.feature_names.len() && pixels.image == self.image {
            return Ok(());
        }
        let here = shape(pixels.image, width);
        let there = shape(self.image, self.feature_names.len());
        Err(DataError::unfit(&pixels.place, format!("the file holds {here}, the training data {there}")))
    }
}

fn required(pixels: &Pixels) -> Result<&[u8], DataError> {
    pixels.labels.as_deref().ok_or_else(|| DataError::Source {
        source: format!("idx:{}", pixels.place),
        problem: "no file of labels is named; use idx:IMAGES,LABELS".into(),
    })
}

fn learn_pixels(pixels: &Pixels, task: Task) -> Result<Encoding, DataError> {
    let labels = required(pixels)?;
    let mut class_names = Vec::new();
    if task.has_classes() {
        let mut seen = [false; 256];
        labels.iter().for_each(|&label| seen[usize::from(label)] = true);
        let largest = labels.iter().copied().max().unwrap_or(0);
        let classes = pixels.classes.unwrap_or(usize::from(largest) + 1);
        if pixels.classes.is_none()
            && let Some(gap) = seen[..classes].iter().position(|seen| !seen)
        {
            let item = labels.iter().position(|&label| usize::from(label) > gap).unwrap_or(0);
            return Err(DataError::content(
                format!("{}: item {item}", pixels.labels_place),
                format!(
                    "label {} is out of range: labels must be 0, 1, 2, … without gaps, and no item has label {gap}",
                    labels[item]
                ),
            ));
        }
        class_names = (0..classes).map(|class| class.to_string()).collect();
        check_classes(&class_names, task, &pixels.labels_place)?;
    }
    let feature_names = match pixels.image {
        Some(Image { height, width }) => {
            (0..height).flat_map(|y| (0..width).map(move |x| format!("pixel {y},{x}"))).collect()
        }
        None => (0..pixels.pixels.ncols()).map(|index| format!("value {index}")).collect(),
    };
    Ok(Encoding { task, feature_names, class_names, image: pixels.image })
}

/// Whether there are as many classes as the model needs.
fn check_classes(names: &[String], task: Task, place: &str) -> Result<(), DataError> {
    let shown = names.iter().take(5).cloned().collect::<Vec<_>>().join(", ");
    let more = if names.len() > 5 { ", …" } else { "" };
    let problem = match (task, names.len()) {
        (Task::Binary, 2) => return Ok(()),
        (Task::Binary, count) => format!(
            "a logistic model needs exactly two classes, the labels hold {count} ({shown}{more}); use softmax for more"
        ),
        (_, 2..) => return Ok(()),
        (_, count) => format!("a classifier needs at least two classes, the labels hold {count} ({shown})"),
    };
    Err(DataError::unfit(place, problem))
}
