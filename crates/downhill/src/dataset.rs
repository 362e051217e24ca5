//! Samples to train on, to measure on, or to predict.

use crate::error::{Error, ErrorKind};
use ndarray::{Array1, Array2, Array3, ArrayView1, ArrayView2, ArrayView3};
use ps_data::{ArrayLabels, Arrays, DataError, Features, Image, NamedArrays, Source};
use std::path::{Path, absolute};
use std::sync::Arc;

/// Samples: a source that is read when it is needed, or arrays in memory.
///
/// The data set that a [`Run`](crate::Run) trains on determines how all others are encoded: which columns are
/// categories, the names of classes, and the scale of features. Cloning copies no samples.
///
/// ```
/// use downhill::Dataset;
/// use downhill::ndarray::array;
///
/// let drawn = Dataset::open("digits:100")?;
/// let table = Dataset::from_arrays(array![[0.0_f32, 1.5], [2.0, 0.5]], ["cat", "dog"])?;
/// let unlabelled = Dataset::from_features(array![[1.0_f32, 1.0]]);
/// # Ok::<(), downhill::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Dataset(pub(crate) Content);

#[derive(Clone, Debug)]
pub(crate) enum Content {
    /// A source as [`Dataset::open`] takes it. Relative paths start at the current folder.
    Source(String),
    Arrays(Arc<Arrays>),
}

impl Dataset {
    /// Opens a source, written as in run files: `csv:PATH`, `idx:IMAGES,LABELS`, `libsvm:PATH` or
    /// `digits:COUNT`. Relative paths start at the current folder. Nothing is read until it is needed.
    ///
    /// # Errors
    /// `source` is invalid or names a URL. The library opens no sockets, so such data must be downloaded
    /// beforehand and opened as a file.
    pub fn open(source: &str) -> Result<Self, Error> {
        Source::parse(source)?;
        refuse_urls([source])?;
        Ok(Dataset(Content::Source(source.into())))
    }

    /// Creates a data set of samples in memory, with a label for each row of features.
    ///
    /// Labels are values to predict or classes, depending on the model of the run. Classes may be numbers or
    /// names. They are ordered as numbers if all of them are numbers, and by their bytes otherwise.
    ///
    /// # Errors
    /// The number of labels differs from the number of rows.
    pub fn from_arrays(rows: impl Into<Rows>, labels: impl Into<Labels>) -> Result<Self, Error> {
        let (Rows(features, image), Labels(labels)) = (rows.into(), labels.into());
        let (rows, count) = (features.samples(), labels.len());
        if rows != count {
            let text = format!("there are {rows} rows of features, but {count} labels");
            return Err(Error::new(ErrorKind::Data, text));
        }
        Ok(Dataset::of(Arrays { features, labels: Some(labels), feature_names: None, image }))
    }

    /// Creates a data set of samples in memory without labels, for prediction.
    pub fn from_features(rows: impl Into<Rows>) -> Self {
        let Rows(features, image) = rows.into();
        Dataset::of(Arrays { features, labels: None, feature_names: None, image })
    }

    /// Names the features of arrays, for error messages and the model file. The default is numbers from 0.
    ///
    /// # Errors
    /// The number of names differs from that of features, or the data set is a source, which has names.
    pub fn with_feature_names<T: Into<String>>(
        self,
        names: impl IntoIterator<Item = T>,
    ) -> Result<Self, Error> {
        let names: Vec<String> = names.into_iter().map(Into::into).collect();
        let bad = |text: String| Err(Error::new(ErrorKind::Data, text));
        let Content::Arrays(arrays) = self.0 else {
            return bad("only arrays accept feature names; a source has its own".into());
        };
        let mut arrays = Arc::unwrap_or_clone(arrays);
        let width = arrays.features.width();
        if names.len() != width {
            return bad(format!("there are {width} features, but {} feature names", names.len()));
        }
        arrays.feature_names = Some(names);
        Ok(Dataset::of(arrays))
    }

    fn of(arrays: Arrays) -> Self {
        Dataset(Content::Arrays(Arc::new(arrays)))
    }

    /// Returns the value of `data.ROLE` that refers to this data set in the settings of a run: a source with
    /// absolute paths, because relative ones would start at the run file's folder; or, for arrays, a name
    /// under which they are added to `arrays`.
    pub(crate) fn placeholder(&self, role: &str, arrays: &mut NamedArrays) -> Result<String, Error> {
        let source = match &self.0 {
            Content::Source(source) => source,
            Content::Arrays(given) => {
                let name = format!("arrays:{role}");
                arrays.insert(name.clone(), Arc::clone(given));
                return Ok(name);
            }
        };
        let parsed = Source::parse(source)?;
        let files = parsed.files();
        if files.is_empty() || parsed.reads_stdin() {
            return Ok(source.clone());
        }
        let whole =
            |file: &&str| absolute(file).map_or_else(|_| (*file).into(), |path| path.display().to_string());
        Ok(parsed.with_files(&files.iter().map(whole).collect::<Vec<String>>()))
    }
}

/// Refuses sources that must be downloaded.
pub(crate) fn refuse_urls<'a>(sources: impl IntoIterator<Item = &'a str>) -> Result<(), DataError> {
    for source in sources {
        // A string that is not a valid source is refused when it is read.
        let Ok(parsed) = Source::parse(source) else { continue };
        if let Some(url) = parsed.files().into_iter().find(|file| ps_data::is_url(Path::new(file))) {
            let problem = "the library fetches nothing; download the file and name its path".into();
            return Err(DataError::Remote { url: url.into(), problem });
        }
    }
    Ok(())
}

/// Features of samples, one row per sample.
///
/// Arrays of `f32` are `[samples, features]`, and a NaN is a missing value. Arrays of `u8` are pixels, where
/// byte `v` stands for `v / 255`: `[samples, pixels]`, or `[samples, height, width]` for images. Owned arrays
/// in standard layout are not copied.
#[derive(Clone, Debug)]
pub struct Rows(Features, Option<Image>);

impl From<Array2<f32>> for Rows {
    fn from(rows: Array2<f32>) -> Self {
        Rows(Features::F32(standard(rows)), None)
    }
}

impl From<Array2<u8>> for Rows {
    fn from(rows: Array2<u8>) -> Self {
        Rows(Features::U8(standard(rows)), None)
    }
}

impl From<Array3<u8>> for Rows {
    fn from(images: Array3<u8>) -> Self {
        let (samples, height, width) = images.dim();
        let rows = match images.is_standard_layout() {
            true => images,
            false => images.as_standard_layout().into_owned(),
        };
        let rows = rows.into_shape_with_order((samples, height * width));
        let rows = rows.expect("an array in standard layout has the same elements in rows");
        Rows(Features::U8(rows), Some(Image { height, width }))
    }
}

macro_rules! rows_of_views {
    ($($view:ident, $array:ident, $element:ty);*) => {
        $(impl From<$view<'_, $element>> for Rows {
            fn from(rows: $view<'_, $element>) -> Self {
                rows.to_owned().into()
            }
        }
        impl From<&$array<$element>> for Rows {
            fn from(rows: &$array<$element>) -> Self {
                rows.view().into()
            }
        })*
    };
}

rows_of_views!(ArrayView2, Array2, f32; ArrayView2, Array2, u8; ArrayView3, Array3, u8);

fn standard<T: Clone>(rows: Array2<T>) -> Array2<T> {
    match rows.is_standard_layout() {
        true => rows,
        false => rows.as_standard_layout().into_owned(),
    }
}

/// The targets of samples: numbers, or names of classes.
#[derive(Clone, Debug)]
pub struct Labels(ArrayLabels);

macro_rules! numeric_labels {
    ($($number:ty),*) => {
        $(impl From<&[$number]> for Labels {
            fn from(labels: &[$number]) -> Self {
                Labels(ArrayLabels::Numbers(labels.iter().map(|&label| f64::from(label)).collect()))
            }
        }
        impl From<Vec<$number>> for Labels {
            fn from(labels: Vec<$number>) -> Self {
                labels.as_slice().into()
            }
        }
        impl<const N: usize> From<[$number; N]> for Labels {
            fn from(labels: [$number; N]) -> Self {
                labels.as_slice().into()
            }
        }
        impl From<ArrayView1<'_, $number>> for Labels {
            fn from(labels: ArrayView1<'_, $number>) -> Self {
                Labels(ArrayLabels::Numbers(labels.iter().map(|&label| f64::from(label)).collect()))
            }
        }
        impl From<&Array1<$number>> for Labels {
            fn from(labels: &Array1<$number>) -> Self {
                labels.view().into()
            }
        }
        impl From<Array1<$number>> for Labels {
            fn from(labels: Array1<$number>) -> Self {
                labels.view().into()
            }
        })*
    };
}

numeric_labels!(u8, u32, i32, f32, f64);

impl From<Vec<String>> for Labels {
    fn from(labels: Vec<String>) -> Self {
        Labels(ArrayLabels::Names(labels))
    }
}

impl From<&[&str]> for Labels {
    fn from(labels: &[&str]) -> Self {
        Labels(ArrayLabels::Names(labels.iter().map(|&label| label.into()).collect()))
    }
}

impl From<Vec<&str>> for Labels {
    fn from(labels: Vec<&str>) -> Self {
        labels.as_slice().into()
    }
}

impl<const N: usize> From<[&str; N]> for Labels {
    fn from(labels: [&str; N]) -> Self {
        labels.as_slice().into()
    }
}
