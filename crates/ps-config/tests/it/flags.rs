//! The groups of flags that the binaries share.

use clap::Parser;
use ps_config::{DataArgs, LogArgs, LogFormat, OutArgs, RunArgs};
use std::path::Path;

#[derive(Parser, Debug)]
struct All {
    #[command(flatten)]
    run: RunArgs,
    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    out: OutArgs,
    #[command(flatten)]
    log: LogArgs,
}

fn parse(line: &str) -> Result<All, String> {
    All::try_parse_from(["prog"].into_iter().chain(line.split_whitespace()))
        .map_err(|error| error.to_string())
}

#[test]
fn the_groups_fit_together() {
    let all = parse(
        "runs/a.toml --set train.batch=2 --set seed=3 --out here --data-root data -q --log-format json",
    );
    let all = all.unwrap();
    assert_eq!(all.run.sets, ["train.batch=2", "seed=3"]);
    assert_eq!(all.out.out.as_deref(), Some(Path::new("here")));
    assert_eq!(all.data.root(all.run.folder()), Path::new("data"));
    assert_eq!((all.log.quiet, all.log.log_format), (true, LogFormat::Json));
}

#[test]
fn data_paths_are_relative_to_the_run_file_by_default() {
    let all = parse("runs/a.toml").unwrap();
    assert_eq!(all.data.root(all.run.folder()), Path::new("runs"));
    assert_eq!(parse("a.toml").unwrap().run.folder(), Path::new("."));
}

#[test]
fn an_invalid_log_level_is_refused() {
    assert!(parse("a.toml --log info,ps_server=debug").is_ok());
    let error = parse("a.toml --log ps_server=loud").unwrap_err();
    assert!(error.contains("use error, warn, info, debug or trace"), "{error}");
}
