//! Compares two run files, and finds what depends on the length of the run.

use crate::resolved::Setting;
use crate::run::RunConfig;
use crate::tables::Shape;
use ps_core::ScheduleKind;

/// A key whose values differ between two runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The key's path, as `--set` takes it; in phase N, counted from 0, `learning_rate.then.N.key`.
    pub key: String,
    /// The values in both runs, in TOML; `None` if the key is not set or does not apply.
    pub values: [Option<String>; 2],
    /// Whether the key only states where data is. Such a key influences nothing as long as the content of the
    /// data is the same.
    pub is_data_source: bool,
}

impl RunConfig {
    /// Returns the keys whose values differ from those of `other`, in the order of the run file.
    pub fn differences(&self, other: &RunConfig) -> Vec<Difference> {
        let (ours, theirs) = (self.settings(), other.settings());
        let only_theirs = theirs.iter().filter(|setting| find(&ours, &setting.key).is_none());
        let keys = ours.iter().chain(only_theirs).map(|setting| &setting.key);
        keys.filter_map(|key| {
            let found = [&ours, &theirs].map(|settings| find(settings, key));
            let values = found.map(|setting| setting.map(|setting| setting.value.clone()));
            let is_data_source = found.iter().flatten().all(|setting| setting.is_data_source);
            (values[0] != values[1]).then(|| Difference { key: key.clone(), values, is_data_source })
        })
        .collect()
    }

    /// Explains why the learning rate of a step depends on the length of the run: one clause for each key
    /// responsible, such as `learning_rate.schedule = "cosine" is stretched over the whole run`.
    pub fn rate_depends_on_length(&self) -> Vec<String> {
        let rate = &self.learning_rate;
        let (table, last) = match rate.then.len().checked_sub(1) {
            Some(number) => (format!("learning_rate.then.{number}"), &rate.then[number]),
            None => ("learning_rate".to_string(), rate),
        };
        // A phase ends where the next one begins, so only the last one depends on the length of the run.
        let stretched = matches!(
            last.schedule,
            Shape::Is(ScheduleKind::Polynomial | ScheduleKind::Cosine | ScheduleKind::OneCycle)
        );
        let stretched = stretched.then(|| format!("{table}.schedule"));
        self.settings()
            .into_iter()
            .filter(|setting| setting.key.starts_with("learning_rate."))
            .filter_map(|Setting { key, value, .. }| match () {
                () if stretched.as_ref() == Some(&key) => {
                    Some(format!("{key} = {value} spans the whole run"))
                }
                () if value.contains("%\"") => Some(format!("{key} = {value} is a share of the whole run")),
                () => None,
            })
            .collect()
    }
}

fn find<'a>(settings: &'a [Setting], key: &str) -> Option<&'a Setting> {
    settings.iter().find(|setting| setting.key == key)
}
