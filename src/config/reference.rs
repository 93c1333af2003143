//! The reference of all keys, read from `config/default.toml`: each key with the comment above it.

use std::fmt::Write as _;

/// The built-in layer.
pub(super) const DEFAULT_TOML: &str = include_str!("../../config/default.toml");

/// Short names for single keys; of two for the same key, the later one wins.
pub(super) const SHORT_NAMES: [(&str, &str); 19] = [
    ("PORT", "server.port"),
    ("HOST", "server.host"),
    ("DATABASE_URL", "store.url"),
    ("REDIS_URL", "redis.url"),
    ("ADMIN_TOKEN", "admin.token"),
    ("NODE_ENV", "environment"),
    ("APP_ENV", "environment"),
    ("RUST_LOG", "log.level"),
    ("AUCTION_MANAGER_URL", "service_urls.auction_manager"),
    ("STREAM_MANAGER_URL", "service_urls.stream_manager"),
    ("ELIZA_URL", "service_urls.eliza"),
    ("SHAPE_L2_URL", "service_urls.shape_l2"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "tracing.endpoint"),
    ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "tracing.traces_endpoint"),
    ("OTEL_EXPORTER_OTLP_HEADERS", "tracing.headers"),
    ("OTEL_SERVICE_NAME", "tracing.service_name"),
    ("OTEL_RESOURCE_ATTRIBUTES", "tracing.resource_attributes"),
    ("OTEL_TRACES_SAMPLER", "tracing.sampler"),
    ("OTEL_TRACES_SAMPLER_ARG", "tracing.sampler_ratio"),
];

/// One section; the unnamed first one holds the keys outside of any.
pub struct Section {
    pub name: &'static str,
    pub meaning: String,
    pub keys: Vec<Key>,
}

/// One key.
pub struct Key {
    /// The name within its section.
    pub name: &'static str,
    /// The dotted name.
    pub path: String,
    /// The default, as TOML.
    pub default: &'static str,
    pub meaning: String,
}

/// Where the template of a service begins: the lines of TOML in it are comments without a space after their `#`.
const SERVICES: &str = "\n#[[services]]\n";

/// All keys, in the order of `config/default.toml`, but for those of a single service.
pub fn sections() -> Vec<Section> {
    // The last comment before the template explains that, and has no section here.
    let (toml, _) = DEFAULT_TOML.split_once(SERVICES).unwrap_or((DEFAULT_TOML, ""));
    read(toml.lines())
}

/// The keys that a service has beside those of `[delivery]`.
pub fn service_section() -> Section {
    let (before, template) = DEFAULT_TOML.split_once(SERVICES).unwrap_or((DEFAULT_TOML, ""));
    let explanation = before.rsplit("\n\n").next().unwrap_or_default().lines().chain(["[services]"]);
    let mut sections = read(explanation.chain(template.lines().map(uncomment)));
    sections.pop().expect("invariant: there is at least the unnamed section")
}

/// The keys of a service with their defaults, or with an empty value of their type.
pub(super) fn service_defaults() -> toml::Table {
    let (_, template) = DEFAULT_TOML.split_once(SERVICES).unwrap_or((DEFAULT_TOML, ""));
    let toml: Vec<_> = template.lines().map(uncomment).collect();
    toml.join("\n").parse().expect("invariant: the template in config/default.toml is TOML, as its test shows")
}

fn uncomment(line: &str) -> &str {
    line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line)
}

fn read(lines: impl Iterator<Item = &'static str>) -> Vec<Section> {
    let mut sections = vec![Section { name: "", meaning: String::new(), keys: Vec::new() }];
    let mut comment = Vec::new();
    for line in lines {
        if let Some(text) = line.strip_prefix('#') {
            comment.push(text.trim());
            continue;
        }
        let meaning = std::mem::take(&mut comment).join(" ");
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            sections.push(Section { name, meaning, keys: Vec::new() });
        } else if let (Some((name, default)), Some(section)) = (line.split_once(" = "), sections.last_mut()) {
            let path = if section.name.is_empty() { name.to_owned() } else { format!("{}.{name}", section.name) };
            section.keys.push(Key { name, path, default, meaning });
        }
    }
    sections
}

/// The reference as Markdown: a table for each section.
pub fn markdown() -> String {
    let mut text = String::new();
    let headings = sections().into_iter().map(|section| (format!("[{}]", section.name), section));
    for (heading, Section { name, meaning, keys }) in headings.chain([("[[services]]".to_owned(), service_section())]) {
        // Writing to a string cannot fail.
        if !name.is_empty() {
            let _ = write!(text, "\n## `{heading}`\n\n{meaning}\n\n");
        }
        text.push_str("| key | default | meaning | short name |\n| --- | --- | --- | --- |\n");
        for Key { name, path, default, meaning } in keys {
            let short = SHORT_NAMES.iter().rev().filter(|(_, key)| *key == path);
            let short: Vec<_> = short.map(|(variable, _)| format!("`{variable}`")).collect();
            let meaning = meaning.replace('|', "\\|");
            let _ = writeln!(text, "| `{name}` | `{default}` | {meaning} | {} |", short.join(", "));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEGIN: &str = "<!-- begin: generated from config/default.toml -->\n";
    const END: &str = "<!-- end: generated from config/default.toml -->\n";

    #[test]
    fn every_key_is_explained() {
        for section in sections().into_iter().chain([service_section()]) {
            assert!(section.name.is_empty() || section.meaning.ends_with('.'), "[{}]", section.name);
            for key in section.keys {
                assert!(key.meaning.ends_with('.'), "{}: {:?}", key.path, key.meaning);
            }
        }
    }

    #[test]
    fn every_key_is_listed() {
        fn leaves(table: &toml::Table, prefix: &str, into: &mut Vec<String>) {
            for (name, value) in table {
                match value.as_table().filter(|inner| !inner.is_empty()) {
                    Some(inner) => leaves(inner, &format!("{prefix}{name}."), into),
                    None => into.push(format!("{prefix}{name}")),
                }
            }
        }
        let mut in_toml = Vec::new();
        leaves(&DEFAULT_TOML.parse().unwrap(), "", &mut in_toml);
        let mut listed: Vec<String> = sections().into_iter().flat_map(|s| s.keys).map(|k| k.path).collect();
        listed.sort();
        in_toml.sort();
        assert_eq!(listed, in_toml);
    }

    /// `UPDATE_DOCS=1 cargo test` brings the document up to date.
    #[test]
    fn the_document_is_in_step() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md");
        let document = std::fs::read_to_string(path).unwrap();
        let (before, rest) = document.split_once(BEGIN).unwrap();
        let (_, after) = rest.split_once(END).unwrap();
        let current = format!("{before}{BEGIN}\n{}\n{END}{after}", markdown().trim());
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(path, &current).unwrap();
        } else {
            assert_eq!(document, current, "run UPDATE_DOCS=1 cargo test");
        }
    }
}
