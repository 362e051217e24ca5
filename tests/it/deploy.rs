//! The manifests of `deploy/`: rendered by kustomize, parsed into types, and compared with the programs that
//! they start.

use clap::Parser;
use downhill_tests::{outside, outside_program};
use ps_config::{RunConfig, SecurityArgs};
use ps_net::Security;
use ps_server::ENDED;
use ps_server::args::Arguments as ServerArguments;
use ps_shard::signals::Signal;
use ps_shard::transport::open_security;
use ps_worker::WorkerError;
use ps_worker::args::Arguments as WorkerArguments;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

const OVERLAYS: [&str; 5] = ["dev", "mtls", "spot", "jobset", "kubeflow"];

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

/// Returns the output of `kubectl kustomize` for a folder.
fn rendered(folder: &Path) -> Option<String> {
    let output = outside_program("kubectl")?.arg("kustomize").arg(folder).output().unwrap();
    assert!(output.status.success(), "{}: {}", folder.display(), String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap())
}

fn documents(yaml: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(yaml).unwrap()
}

fn overlays() -> Vec<(&'static str, Vec<Value>)> {
    let render =
        |name: &&'static str| Some((*name, documents(&rendered(&deploy().join("overlays").join(name))?)));
    OVERLAYS.iter().filter_map(render).collect()
}

/// Returns the base, combined with each component for data.
fn components() -> Vec<(&'static str, Vec<Value>)> {
    let render = |component: &&'static str| {
        let folder = tempfile::tempdir_in(deploy().join("overlays")).unwrap();
        let text = format!(
            "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nnamespace: downhill\n\
             resources: [../../base]\ncomponents: [../../components/{component}]\n"
        );
        std::fs::write(folder.path().join("kustomization.yaml"), text).unwrap();
        Some((*component, documents(&rendered(folder.path())?)))
    };
    ["data-pvc", "data-image", "data-url"].iter().filter_map(render).collect()
}

fn kind(document: &Value) -> &str {
    document["kind"].as_str().unwrap()
}

fn name(document: &Value) -> &str {
    document["metadata"]["name"].as_str().unwrap()
}

/// Returns the Job templates of a JobSet or of a training runtime that creates one; empty for other kinds.
fn replicated(document: &Value) -> Vec<(String, Value)> {
    let set = match kind(document) {
        "JobSet" => &document["spec"],
        "ClusterTrainingRuntime" => &document["spec"]["template"]["spec"],
        _ => return Vec::new(),
    };
    let jobs = set["replicatedJobs"].as_array().unwrap().iter();
    jobs.map(|job| (job["name"].as_str().unwrap().to_owned(), job["template"].clone())).collect()
}

/// Returns each workload with pods: its kind and name (with its Job, if it has one), and the pod template.
fn pods(documents: &[Value]) -> Vec<(String, Value, Value)> {
    let mut pods = Vec::new();
    for document in documents {
        match kind(document) {
            "StatefulSet" | "Job" => {
                let spec = &document["spec"];
                pods.push((
                    format!("{} {}", kind(document), name(document)),
                    spec.clone(),
                    spec["template"].clone(),
                ));
            }
            _ => pods.extend(replicated(document).into_iter().map(|(job, template)| {
                let spec = template["spec"].clone();
                (format!("{} {job}", kind(document)), spec.clone(), spec["template"].clone())
            })),
        }
    }
    pods
}

#[test]
fn schemas_allow_every_overlay_and_component() {
    let Some(validate) = outside("venv/bin/kubernetes-validate") else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut files = Vec::new();
    for (name, documents) in overlays().into_iter().chain(components()) {
        let jobs = documents.iter().flat_map(replicated).map(|(job, template)| {
            json!({ "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": job }, "spec": template["spec"] })
        });
        let known = documents
            .iter()
            .filter(|document| replicated(document).is_empty() && kind(document) != "TrainJob");
        for (index, document) in known.cloned().chain(jobs).enumerate() {
            // JSON is valid YAML.
            let path = folder.path().join(format!("{name}-{index}.yaml"));
            std::fs::write(&path, document.to_string()).unwrap();
            files.push(path);
        }
    }
    if files.is_empty() {
        return;
    }
    files.extend(["namespace.yaml", "claim.yaml", "collect.yaml"].map(|file| deploy().join(file)));
    let output = Command::new(&validate).arg("--strict").args(&files).output().unwrap();
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !said.contains("Couldn't find schema"), "{said}");
    assert_eq!(said.matches(" passed for resource ").count(), files.len(), "{said}");
    // Check that the tool rejects a field that its schema does not have, at the top level and nested.
    let texts: Vec<String> = files.iter().map(|file| std::fs::read_to_string(file).unwrap()).collect();
    for (field, misspelt) in [("\"metadata\"", "\"metadatum\""), ("\"runAsNonRoot\"", "\"runAsNotRoot\"")] {
        let text = texts.iter().find(|text| text.contains(field)).unwrap().replacen(field, misspelt, 1);
        let wrong = folder.path().join("wrong.yaml");
        std::fs::write(&wrong, text).unwrap();
        assert!(
            !Command::new(&validate).arg("--strict").arg(&wrong).output().unwrap().status.success(),
            "{misspelt}"
        );
    }
}

#[test]
fn custom_resources_match_their_api_models() {
    let Some(python) = outside("venv/bin/python") else { return };
    let folder = tempfile::tempdir().unwrap();
    let read = |text: String| {
        let file = folder.path().join("resources.yaml");
        std::fs::write(&file, text).unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("outside/custom_resources.py");
        let output = Command::new(&python).arg(script).arg(&file).output().unwrap();
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    for (overlay, kinds) in [("jobset", 1), ("kubeflow", 2)] {
        let Some(text) = rendered(&deploy().join("overlays").join(overlay)) else { return };
        assert_eq!(read(text.clone()), (format!("{kinds}\n"), String::new()), "{overlay}");
        // Check that the tool rejects an invalid field.
        let (_, problems) = read(text.replace("successPolicy:", "succesPolicy:"));
        assert!(problems.contains("spec.succesPolicy is not known"), "{problems}");
    }
}

/// Returns the only container of a pod.
fn container(template: &Value) -> &Value {
    let containers = template["spec"]["containers"].as_array().unwrap();
    assert_eq!(containers.len(), 1);
    &containers[0]
}

fn environment(container: &Value) -> BTreeMap<String, String> {
    let of = |entry: &Value| {
        let name = entry["name"].as_str().unwrap().to_owned();
        // A value that is known only in a cluster is replaced by one of the same form.
        let value = match entry["valueFrom"]["fieldRef"]["fieldPath"].as_str() {
            Some("metadata.labels['apps.kubernetes.io/pod-index']") => "0".into(),
            Some("metadata.name") => "pod-1".into(),
            Some("metadata.labels['jobset.sigs.k8s.io/jobset-name']") => "set".into(),
            Some(other) => panic!("{other}"),
            None => entry["value"].as_str().unwrap().to_owned(),
        };
        (name, value)
    };
    container["env"].as_array().unwrap().iter().map(of).collect()
}

/// Returns command and arguments, expanded like by the kubelet.
fn command_line(container: &Value) -> Vec<String> {
    let environment = environment(container);
    let words = ["command", "args"].into_iter().flat_map(|key| container[key].as_array().unwrap());
    let expand = |word: &Value| {
        let mut word = word.as_str().unwrap().to_owned();
        for (name, value) in &environment {
            word = word.replace(&format!("$({name})"), value);
        }
        assert!(!word.contains("$("), "{word}: nothing of that name is in the environment");
        word
    };
    words.map(expand).collect()
}

fn port(container: &Value, name: &str) -> Option<u64> {
    let ports = container["ports"].as_array().unwrap();
    ports.iter().find(|port| port["name"] == name).map(|port| port["containerPort"].as_u64().unwrap())
}

/// Returns the security settings of a container, with a made-up token if it needs one.
fn security(container: &Value, folder: &Path) -> Security {
    let token = folder.join("token");
    std::fs::write(&token, "made-up-for-the-tests\n").unwrap();
    let token_file = environment(container).contains_key("DOWNHILL_TOKEN_FILE").then_some(token);
    open_security(&SecurityArgs { token_file, ..SecurityArgs::default() }).unwrap()
}

#[test]
fn the_programs_accept_the_command_lines_of_the_manifests() {
    let folder = tempfile::tempdir().unwrap();
    for (overlay, documents) in overlays() {
        let (mut servers, mut workers) = (Vec::new(), Vec::new());
        for (place, spec, template) in pods(&documents) {
            let place = format!("{overlay}: {place}");
            let container = container(&template);
            let words = command_line(container);
            match container["command"][0].as_str() {
                Some("ps-server") => {
                    let arguments = ServerArguments::try_parse_from(&words)
                        .unwrap_or_else(|error| panic!("{place}: {error}"));
                    let security = security(container, folder.path());
                    let listen =
                        arguments.address(&security).unwrap_or_else(|error| panic!("{place}: {error}"));
                    arguments.guard_dashboard(&security).unwrap_or_else(|error| panic!("{place}: {error}"));
                    arguments.placement().unwrap_or_else(|error| panic!("{place}: {error}"));
                    let at = |flag: &str, port: Option<u64>| {
                        assert_eq!(flag.rsplit(':').next().unwrap().parse().ok(), port, "{place}: {flag}");
                    };
                    at(&listen.to_string(), port(container, "grpc"));
                    at(arguments.health.as_deref().unwrap(), port(container, "health"));
                    at(arguments.watch.metrics.as_deref().unwrap(), port(container, "metrics"));
                    at(arguments.watch.dashboard.as_deref().unwrap(), port(container, "dashboard"));
                    for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
                        assert_eq!(
                            container[probe]["grpc"]["port"].as_u64(),
                            port(container, "health"),
                            "{place}"
                        );
                        let service = container[probe]["grpc"]["service"].as_str().unwrap_or_default();
                        assert!(["", "downhill.v1.ParameterServer"].contains(&service), "{place}: {service}");
                    }
                    if let Some(replicas) = spec["replicas"].as_u64() {
                        assert_eq!(
                            arguments.shard.unwrap().1 as u64,
                            replicas,
                            "{place}: SHARDS and replicas"
                        );
                        // The flag of the last shard.
                        let (first, last) = ("--shard=0/", format!("--shard={}/", replicas - 1));
                        let words = words.iter().map(|word| word.replace(first, &last));
                        let placement = ServerArguments::try_parse_from(words).unwrap().placement().unwrap();
                        assert_eq!(placement.is_some(), replicas > 1, "{place}");
                    }
                    let workers = documents.iter().flat_map(|it| it["spec"]["parallelism"].as_u64()).max();
                    assert!(
                        workers.is_none_or(|workers| u64::from(arguments.min_workers) <= workers),
                        "{place}"
                    );
                    servers.push((arguments, template.clone()));
                }
                Some("ps-worker") => {
                    // Workers must not have the token that ends the run.
                    let mounts = template["spec"]["volumes"].to_string();
                    assert!(!mounts.contains("downhill-admin"), "{place}");
                    let arguments = WorkerArguments::try_parse_from(&words)
                        .unwrap_or_else(|error| panic!("{place}: {error}"));
                    let metrics =
                        arguments.metrics.as_deref().unwrap().rsplit(':').next().unwrap().to_owned();
                    assert_eq!(metrics.parse().ok(), port(container, "metrics"), "{place}");
                    let annotated = &template["metadata"]["annotations"]["prometheus.io/port"];
                    assert_eq!(annotated.as_str(), Some(&metrics[..]), "{place}");
                    workers.push((arguments, spec.clone()));
                }
                other => panic!("{place}: {other:?} is none of our programs"),
            }
        }
        assert_eq!((servers.len(), workers.len()), (1, 1), "{overlay}");
        // Workers connect to a pod that exists, by its DNS name.
        let (server, listen) = (&workers[0].0.server, servers[0].0.listen.rsplit(':').next().unwrap());
        let (host, port) = server.rsplit_once(':').unwrap();
        assert_eq!(port, listen, "{overlay}");
        let (pod, domain) = host.split_once('.').unwrap();
        let of = |wanted: &str| documents.iter().find(|document| kind(document) == wanted);
        let expected = match (of("StatefulSet"), of("JobSet")) {
            (Some(set), _) => (format!("{}-0", name(set)), set["spec"]["serviceName"].as_str().unwrap()),
            (None, Some(set)) => {
                (format!("{}-server-0-0", name(set)), set["spec"]["network"]["subdomain"].as_str().unwrap())
            }
            // The JobSet of a TrainJob, and by default its subdomain, have the name of the TrainJob.
            (None, None) => ("set-server-0-0".to_owned(), "set"),
        };
        assert_eq!((pod, domain), (&expected.0[..], expected.1), "{overlay}");
        if let Some(coordinator) = &servers[0].0.coordinator {
            assert_eq!(coordinator, server, "{overlay}: shards and workers call the same server");
        }
        // Exit codes that make a Job fail are those that say that retrying is useless. Exit codes that it
        // ignores say that somebody has ended the pod.
        let useless = [WorkerError::Mismatch(String::new()), WorkerError::Security(String::new())];
        let mut useless = useless.map(|error| u64::from(error.exit_code())).to_vec();
        useless.push(ENDED.into());
        useless.sort();
        let ended = vec![u64::from(Signal::Terminate.exit_code())];
        for (place, spec, template) in pods(&documents) {
            let Some(rules) = spec["podFailurePolicy"]["rules"].as_array() else {
                assert!(place.starts_with("StatefulSet"), "{overlay}: {place} has no policy");
                continue;
            };
            assert_eq!(rules[0]["onPodConditions"][0]["type"], "DisruptionTarget", "{overlay}: {place}");
            for (action, codes) in [("Ignore", &ended), ("FailJob", &useless)] {
                let is_of = |rule: &&Value| rule["action"] == action && rule["onExitCodes"].is_object();
                let rule = &rules.iter().find(is_of).unwrap()["onExitCodes"];
                assert_eq!(rule["containerName"], container(&template)["name"], "{overlay}: {place}");
                assert_eq!(rule["values"], json!(codes), "{overlay}: {place}: {action}");
            }
        }
    }
}

#[test]
fn deleting_a_kustomization_keeps_the_results() {
    for (overlay, documents) in overlays().into_iter().chain(components()) {
        for document in documents {
            assert!(
                !["Namespace", "PersistentVolumeClaim"].contains(&kind(&document)),
                "{overlay}: {} {}",
                kind(&document),
                name(&document)
            );
        }
    }
    // These manifests are applied on their own. All files that the README applies exist.
    let readme = std::fs::read_to_string(deploy().join("README.md")).unwrap();
    for file in ["namespace.yaml", "claim.yaml", "collect.yaml"] {
        assert!(deploy().join(file).exists() && readme.contains(&format!("deploy/{file}")), "{file}");
    }
}

/// A `kubectl` that waits forever, except for the condition that the test checks.
#[cfg(unix)]
#[test]
fn waiting_distinguishes_success_from_failure() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let stub = folder.path().join("kubectl");
    let text = "#!/bin/sh\ncase \"$*\" in *condition=$SEEN*) exit 0;; esac\nexec sleep 600\n";
    std::fs::write(&stub, text).unwrap();
    std::fs::set_permissions(&stub, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap());
    let cases = [
        ("job/downhill-worker", "Complete", 0),
        ("job/downhill-worker", "Failed", 3),
        ("jobset/downhill", "Completed", 0),
        ("jobset/downhill", "Failed", 3),
        ("trainjob/downhill", "Failed", 3),
    ];
    for (object, seen, code) in cases {
        let mut wait = Command::new(deploy().join("wait"));
        let output = wait.arg(object).env("PATH", &path).env("SEEN", seen).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{object} {seen}: {output:?}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(said.contains("has failed"), code == 3, "{object} {seen}: {said}");
    }
}

#[test]
fn names_in_the_manifests_match() {
    let readme = std::fs::read_to_string(deploy().join("README.md")).unwrap();
    for (overlay, documents) in overlays() {
        let named =
            |wanted: &str, called: &str| documents.iter().any(|it| kind(it) == wanted && name(it) == called);
        let has = |labels: &Value, selector: &Value| {
            selector.as_object().unwrap().iter().all(|(key, value)| labels.get(key) == Some(value))
        };
        let templates = pods(&documents);
        let selects = |selector: &Value| {
            templates.iter().any(|(_, _, template)| has(&template["metadata"]["labels"], selector))
        };
        for document in &documents {
            let place = format!("{overlay}: {} {}", kind(document), name(document));
            let spec = &document["spec"];
            match kind(document) {
                "Service" => {
                    assert!(selects(&spec["selector"]), "{place}");
                    let server = templates
                        .iter()
                        .find(|it| has(&it.2["metadata"]["labels"], &spec["selector"]))
                        .unwrap();
                    for wanted in spec["ports"].as_array().unwrap() {
                        let target = wanted["targetPort"].as_str().unwrap();
                        assert_eq!(
                            port(container(&server.2), target),
                            wanted["port"].as_u64(),
                            "{place}: {target}"
                        );
                    }
                }
                "StatefulSet" => {
                    assert!(
                        has(&spec["template"]["metadata"]["labels"], &spec["selector"]["matchLabels"]),
                        "{place}"
                    );
                    assert!(named("Service", spec["serviceName"].as_str().unwrap()), "{place}");
                }
                "PodDisruptionBudget" => {
                    assert!(selects(&spec["selector"]["matchLabels"]), "{place}");
                    // A server that never becomes ready must not keep its node from being drained.
                    assert_eq!(spec["unhealthyPodEvictionPolicy"], "AlwaysAllow", "{place}");
                }
                "NetworkPolicy" => {
                    if let Some(labels) = spec["podSelector"]["matchLabels"].as_object() {
                        assert!(selects(&json!(labels)), "{place}");
                    }
                    let rules =
                        ["ingress", "egress"].into_iter().filter_map(|way| spec[way].as_array()).flatten();
                    for number in
                        rules.flat_map(|rule| rule["ports"].as_array().unwrap()).map(|port| &port["port"])
                    {
                        let ours = templates.iter().any(|(_, _, template)| {
                            let ports = container(template)["ports"].as_array().unwrap();
                            ports.iter().any(|port| port["containerPort"] == *number)
                        });
                        assert!(ours || [53, 8082].contains(&number.as_u64().unwrap()), "{place}: {number}");
                    }
                }
                "ConfigMap" => {
                    let run = document["data"]["run.toml"].as_str().unwrap();
                    RunConfig::parse(run, &place, &[]).unwrap();
                }
                "TrainJob" => {
                    assert!(named("ClusterTrainingRuntime", spec["runtimeRef"]["name"].as_str().unwrap()))
                }
                _ => {}
            }
        }
        for (place, spec, template) in &templates {
            let place = format!("{overlay}: {place}");
            let container = container(template);
            let mut volumes: BTreeMap<&str, &Value> = BTreeMap::new();
            for volume in template["spec"]["volumes"].as_array().unwrap() {
                volumes.insert(volume["name"].as_str().unwrap(), volume);
                if let Some(secret) = volume["secret"]["secretName"].as_str() {
                    assert!(
                        readme.contains(secret),
                        "{place}: README.md does not say how to make the Secret {secret}"
                    );
                }
                if let Some(map) = volume["configMap"]["name"].as_str() {
                    assert!(named("ConfigMap", map), "{place}: {map}");
                }
                if let Some(claim) = volume["persistentVolumeClaim"]["claimName"].as_str() {
                    assert!(
                        named("PersistentVolumeClaim", claim) || readme.contains(claim),
                        "{place}: {claim}"
                    );
                }
            }
            let claims = spec["volumeClaimTemplates"].as_array().into_iter().flatten();
            volumes.extend(claims.map(|claim| (claim["metadata"]["name"].as_str().unwrap(), claim)));
            let mounts = container["volumeMounts"].as_array().unwrap();
            for mount in mounts {
                assert!(volumes.contains_key(mount["name"].as_str().unwrap()), "{place}: {mount}");
            }
            assert_eq!(mounts.len(), volumes.len(), "{place}: each volume is mounted once");
            // Every file that a program reads is in a mounted volume.
            let is_mounted =
                |path: &str| mounts.iter().any(|it| path.starts_with(it["mountPath"].as_str().unwrap()));
            for (name, path) in environment(container).iter().filter(|(_, value)| value.starts_with('/')) {
                assert!(is_mounted(path), "{place}: {name}={path}");
            }
            let outs = command_line(container)
                .into_iter()
                .filter_map(|it| Some(it.strip_prefix("--out=")?.to_owned()));
            outs.for_each(|out| assert!(is_mounted(&out), "{place}: {out}"));
            assert!(
                named("ServiceAccount", template["spec"]["serviceAccountName"].as_str().unwrap()),
                "{place}"
            );
        }
    }
}

#[test]
fn pods_meet_the_restricted_standard() {
    for (overlay, documents) in overlays() {
        for (place, spec, template) in pods(&documents) {
            let place = format!("{overlay}: {place}");
            let (pod, container) = (&template["spec"]["securityContext"], container(&template));
            assert_eq!(pod["runAsNonRoot"], true, "{place}");
            assert_eq!(
                [&pod["runAsUser"], &pod["runAsGroup"], &pod["fsGroup"]].map(Value::as_u64),
                [Some(65532); 3],
                "{place}"
            );
            assert_eq!(pod["seccompProfile"]["type"], "RuntimeDefault", "{place}");
            let own = &container["securityContext"];
            assert_eq!(
                (&own["allowPrivilegeEscalation"], &own["readOnlyRootFilesystem"]),
                (&json!(false), &json!(true)),
                "{place}"
            );
            assert_eq!(own["capabilities"], json!({ "drop": ["ALL"] }), "{place}");
            assert_eq!(template["spec"]["automountServiceAccountToken"], false, "{place}");
            for kind in ["requests", "limits"] {
                assert!(
                    container["resources"][kind]["cpu"].is_string()
                        && container["resources"][kind]["memory"].is_string(),
                    "{place}"
                );
            }
            let claims = spec["volumeClaimTemplates"].as_array().into_iter().flatten();
            claims.for_each(|claim| {
                assert_eq!(claim["spec"]["accessModes"], json!(["ReadWriteOncePod"]), "{place}")
            });
        }
    }
}

#[test]
fn components_add_their_data_to_servers_and_workers() {
    for (component, documents) in components() {
        for document in documents.iter().filter(|document| ["StatefulSet", "Job"].contains(&kind(document))) {
            let container = container(&document["spec"]["template"]);
            let environment = environment(container);
            match component {
                "data-url" => assert!(environment.contains_key("AWS_REGION")),
                _ => {
                    let mounts = container["volumeMounts"].as_array().unwrap();
                    assert!(
                        mounts.iter().any(|mount| mount["mountPath"] == environment["DOWNHILL_DATA_ROOT"])
                    );
                }
            }
            // Existing environment variables are kept.
            assert!(environment.contains_key("DOWNHILL_TOKEN_FILE"));
        }
    }
}

#[test]
fn invalid_values_are_reported_by_name() {
    let server = |words: &[&str]| {
        let words = ["ps-server", "/config/run.toml", "--listen=0.0.0.0:4370"].iter().chain(words);
        ServerArguments::try_parse_from(words.copied())
    };
    let problem = |words: &[&str]| server(words).err().map(|error| error.to_string()).unwrap_or_default();
    assert!(problem(&["--shard=2/2"]).contains("I/S with I below S"));
    assert!(problem(&["--shard=$(SHARD)/2"]).contains("--shard"));
    assert!(problem(&["--min-workers=0"]).contains("--min-workers"));
    let shard = server(&["--shard=1/2"]).unwrap().placement().unwrap_err();
    assert!(shard.contains("--coordinator"), "{shard}");
    let open = server(&["--dashboard=0.0.0.0:8080"]).unwrap();
    let nothing = Security::default();
    assert!(open.address(&nothing).unwrap_err().contains("--token-file"));
    assert!(open.guard_dashboard(&nothing).unwrap_err().contains("--dashboard 0.0.0.0:8080"));
    // A Secret that is not mounted.
    let args = SecurityArgs { token_file: Some("/secrets/token/token".into()), ..SecurityArgs::default() };
    let missing = open_security(&args).unwrap_err();
    assert!(missing.contains("--token-file /secrets/token/token"), "{missing}");
}

#[test]
fn dashboards_use_only_existing_metrics() {
    let table = std::fs::read_to_string(deploy().join("../docs/metrics.md")).unwrap();
    let files = ["grafana/downhill.json", "../docs/metrics.md"];
    for file in files {
        let text = std::fs::read_to_string(deploy().join(file)).unwrap();
        let is_part = |c: char| c.is_ascii_lowercase() || c == '_';
        let words =
            text.split(|c: char| !is_part(c)).filter(|word| word.starts_with("downhill_") && word.len() > 10);
        let mut count = 0;
        for word in words.filter(|word| !word.ends_with('_')) {
            let metric = word.strip_suffix("_bucket").unwrap_or(word);
            assert!(table.contains(&format!("| `{metric}` |")), "{file}: there is no metric {word}");
            count += 1;
        }
        assert!(count > 5, "{file}");
    }
    let grafana: Value =
        serde_json::from_str(&std::fs::read_to_string(deploy().join("grafana/downhill.json")).unwrap())
            .unwrap();
    assert!(grafana["panels"].as_array().unwrap().len() >= 8);
}
