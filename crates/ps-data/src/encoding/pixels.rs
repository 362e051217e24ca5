//! Images: bytes stay bytes, and labels already are class numbers.

use super::labels::{Classes, check_classes};
use crate::dataset::{Image, Task};
use crate::error::DataError;
use crate::raw::Pixels;

/// The labels, or an error if there are none.
fn required(pixels: &Pixels) -> Result<&[u8], DataError> {
    pixels.labels.as_deref().ok_or_else(|| DataError::Source {
        source: format!("idx:{}", pixels.location),
        problem: "the source has no labels file; use idx:IMAGES,LABELS".into(),
    })
}

/// The classes of a training source: 0 to K-1, each of which must occur.
pub(super) fn learn_classes(pixels: &Pixels, task: Task) -> Result<Classes, DataError> {
    let labels = required(pixels)?;
    if !task.has_classes() {
        return Ok(Classes::default());
    }
    let mut seen = [false; 256];
    labels.iter().for_each(|&label| seen[usize::from(label)] = true);
    let largest = labels.iter().copied().max().unwrap_or(0);
    let classes = pixels.classes.unwrap_or(usize::from(largest) + 1);
    let gap = seen[..classes].iter().position(|seen| !seen);
    if let (None, Some(gap)) = (pixels.classes, gap) {
        let item = labels.iter().position(|&label| usize::from(label) > gap).unwrap_or(0);
        return Err(DataError::content(
            format!("{}: item {item}", pixels.labels_location),
            format!(
                "label {} is out of range: labels must be 0, 1, 2, … without gaps, but {gap} does not occur",
                labels[item]
            ),
        ));
    }
    let classes = Classes::numbered((0..classes).map(|class| class as f64).collect());
    check_classes(&classes.names, task, &pixels.labels_location)?;
    Ok(classes)
}

/// The names of an image's pixels, row by row.
pub(super) fn pixel_names(Image { height, width }: Image) -> Vec<String> {
    (0..height).flat_map(|y| (0..width).map(move |x| format!("pixel {y},{x}"))).collect()
}

/// The targets of a source, given the number of classes in the training data.
pub(super) fn targets(pixels: &Pixels, task: Task, classes: usize) -> Result<Vec<f32>, DataError> {
    let labels = required(pixels)?;
    let beyond = labels.iter().position(|&label| task.has_classes() && usize::from(label) >= classes);
    if let Some(item) = beyond {
        let (label, last) = (labels[item], classes - 1);
        let problem = format!(
            "label {label} is out of range: the classes of the training data are 0 to \
                               {last}"
        );
        return Err(DataError::content(format!("{}: item {item}", pixels.labels_location), problem));
    }
    Ok(labels.iter().map(|&label| f32::from(label)).collect())
}

/// Checks that the samples have the shape of the training data.
pub(super) fn check_shape(pixels: &Pixels, image: Option<Image>, width: usize) -> Result<(), DataError> {
    let shown = |image: Option<Image>, width| match image {
        Some(Image { height, width }) => format!("images of {height}x{width}"),
        None => format!("samples of {width} values"),
    };
    if pixels.pixels.ncols() == width && pixels.image == image {
        return Ok(());
    }
    let (here, there) = (shown(pixels.image, pixels.pixels.ncols()), shown(image, width));
    Err(DataError::unfit(
        &pixels.location,
        format!("the file contains {here}, but the training data {there}"),
    ))
}
