//! Layers of configuration: each may set only keys that the built-in one has, to values of the same type.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::checks::{check_service_name, suggest};
use super::error::{ConfigError, Origin};
use super::reference::{DEFAULT_TOML, SHORT_NAMES, service_defaults};

/// Variables of the form `EVENT_HANDLER__SECTION__KEY` set `section.key`.
const PREFIX: &str = "EVENT_HANDLER__";

/// Keys whose values must be text: a number could be spelled differently when it is read, and so become another secret.
const TEXT_ONLY: [&str; 1] = ["admin.token"];
/// Keys whose values are maps with names of the user's choice. A later one replaces an earlier one whole.
const MAPS: [&str; 1] = ["redis.pubsub.sources"];

/// Who set each key; keys not in it keep their built-in value.
pub(super) type Origins = BTreeMap<String, Origin>;

/// The key of the services, which have no built-in value: `services.NAME.KEY`.
const SERVICES: &str = "services";
/// The key of the sagas, which have none either.
pub(super) const SAGAS: &str = "sagas";

/// The values so far, and who set them.
pub(super) struct Layers {
    pub values: Table,
    /// The keys that are set for each service, under its name; in the order in which the services were first named.
    pub services: Vec<(String, Table)>,
    /// The sagas of the file, as they are.
    pub sagas: Option<(Origin, Value)>,
    /// The file, if there is one.
    pub file: Option<PathBuf>,
    pub origins: Origins,
}

impl Layers {
    /// The lowest layer.
    pub fn built_in() -> Self {
        let values = DEFAULT_TOML.parse().expect("invariant: config/default.toml is TOML, as its test shows");
        Self { values, services: Vec::new(), sagas: None, file: None, origins: Origins::new() }
    }

    /// The files of a folder, relative to the configuration file, whose names end so. `key` names the folder; its default
    /// need not exist.
    pub fn files_in(&self, (key, dir): (&str, &str), default: &str, end: &str) -> Result<Vec<PathBuf>, ConfigError> {
        if dir.is_empty() {
            return Ok(Vec::new());
        }
        let beside = self.file.as_deref().and_then(Path::parent).unwrap_or(Path::new(""));
        let is_default = dir == default;
        let dir = beside.join(dir);
        let entries = match std::fs::read_dir(&dir) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && is_default => return Ok(Vec::new()),
            entries => entries.and_then(Iterator::collect::<Result<Vec<_>, _>>),
        };
        let unusable =
            |error| ConfigError::of_key(self.origin(key), key, format!("{}: cannot be read: {error}", dir.display()));
        let names = entries.map_err(unusable)?.into_iter().map(|entry| entry.file_name());
        // What editors leave behind is hidden.
        let is_meant = |name: &std::ffi::OsString| {
            Path::new(name).extension().is_some_and(|given| given == end) && !name.to_string_lossy().starts_with('.')
        };
        let mut paths: Vec<PathBuf> = names.filter(is_meant).map(|name| dir.join(name)).collect();
        paths.sort();
        for path in &paths {
            // A named pipe would be waited for without end. What cannot be looked at cannot be read either.
            if path.metadata().is_ok_and(|metadata| !metadata.is_file()) {
                return Err(ConfigError::of_file(path, "is not a file"));
            }
        }
        Ok(paths)
    }

    /// Lays the file at `path` on top.
    pub fn add_file(&mut self, path: &Path) -> Result<(), ConfigError> {
        let bytes = std::fs::read(path).map_err(|e| ConfigError::of_file(path, format!("cannot be read: {e}")))?;
        let text = String::from_utf8(bytes).map_err(|_| ConfigError::of_file(path, "is not UTF-8 text"))?;
        let table = text.parse().map_err(|e| syntax_error(path, &text, &e))?;
        let origin = Origin::File(path.to_owned());
        let mut table: Table = table;
        if let Some(services) = table.remove(SERVICES) {
            self.add_services(&origin, services)?;
        }
        self.sagas = table.remove(SAGAS).map(|sagas| (origin.clone(), sagas));
        self.file = Some(path.to_owned());
        self.merge(&origin, &mut Vec::new(), table)
    }

    /// Lays the environment on top: long names first, so that short ones, which platforms set, win.
    pub fn add_environment(&mut self, environment: &BTreeMap<String, String>) -> Result<(), ConfigError> {
        for (name, text) in environment {
            if let Some(path) = name.strip_prefix(PREFIX) {
                let key = path.to_lowercase().replace("__", ".");
                self.set(Origin::Environment(name.clone()), &key, text)?;
            }
        }
        for (name, key) in SHORT_NAMES {
            if let Some(text) = environment.get(name).filter(|text| !text.trim().is_empty()) {
                self.set(Origin::Environment(name.to_owned()), key, text)?;
            }
        }
        Ok(())
    }

    /// Lays one value from the command line on top, given by `flag`.
    pub fn add_override(&mut self, flag: &str, key: &str, text: &str) -> Result<(), ConfigError> {
        self.set(Origin::Flag(flag.to_owned()), key, text)
    }

    /// Who set `key` or the innermost part of the configuration around it.
    pub fn origin(&self, key: &str) -> Origin {
        origin_of(&self.origins, key)
    }

    fn merge(&mut self, origin: &Origin, path: &mut Vec<String>, table: Table) -> Result<(), ConfigError> {
        for (name, value) in table {
            path.push(name);
            match value {
                Value::Table(inner)
                    if self.lookup(origin, path)?.is_table() && !MAPS.contains(&path.join(".").as_str()) =>
                {
                    self.merge(origin, path, inner)?;
                }
                Value::Integer(_) if TEXT_ONLY.contains(&path.join(".").as_str()) => {
                    return Err(ConfigError::of_key(origin.clone(), path.join("."), "must be text in quotation marks"));
                }
                value => self.assign(origin, path, |slot| convert(slot, value))?,
            }
            path.pop();
        }
        Ok(())
    }

    fn add_services(&mut self, origin: &Origin, services: Value) -> Result<(), ConfigError> {
        let refuse = |key: String, reason: &str| ConfigError::of_key(origin.clone(), key, reason);
        let Value::Array(services) = services else {
            return Err(refuse(SERVICES.into(), "must be tables, each of them begun by [[services]]"));
        };
        for (index, service) in services.into_iter().enumerate() {
            let at = format!("{SERVICES}[{index}]");
            let Value::Table(mut service) = service else {
                return Err(refuse(at, "must be a section"));
            };
            let name = match service.remove("name") {
                Some(Value::String(name)) => name,
                Some(other) => return Err(refuse(at + ".name", &format!("must be text, not {}", kind(&other)))),
                None => return Err(refuse(at + ".name", "is required")),
            };
            check_service_name(&name).map_err(|reason| refuse(format!("{at}.name"), &reason))?;
            if self.services.iter().any(|(other, _)| *other == name) {
                return Err(refuse(at + ".name", &format!("{name:?} is the name of another service")));
            }
            self.service(origin, &name);
            for (key, value) in service {
                self.assign_service(origin, &name, &key, |slot| convert(slot, value))?;
            }
        }
        Ok(())
    }

    /// The keys that are set so far for the service called `name`.
    fn service(&mut self, origin: &Origin, name: &str) -> &mut Table {
        let at = self.services.iter().position(|(other, _)| other == name).unwrap_or_else(|| {
            self.services.push((name.to_owned(), Table::new()));
            self.origins.insert(format!("{SERVICES}.{name}"), origin.clone());
            self.services.len() - 1
        });
        &mut self.services[at].1
    }

    fn assign_service(
        &mut self,
        origin: &Origin,
        name: &str,
        key: &str,
        value: impl FnOnce(&Value) -> Result<Value, String>,
    ) -> Result<(), ConfigError> {
        let path = format!("{SERVICES}.{name}.{key}");
        let refuse = |reason| ConfigError::of_key(origin.clone(), &path, reason);
        let mut known = service_defaults();
        known.remove("name");
        if let Some(Value::Table(delivery)) = self.values.get("delivery") {
            known.extend(delivery.clone());
        }
        let slot = known.get(key).ok_or_else(|| refuse(unknown_key(&known, &[key.to_owned()])))?;
        let value = value(slot).map_err(refuse)?;
        self.service(origin, name).insert(key.to_owned(), value);
        self.origins.insert(path, origin.clone());
        Ok(())
    }

    /// Sets `services.NAME.KEY`. Variables cannot have dashes in their names, and services no underscores.
    fn set_service(&mut self, origin: Origin, path: &str, text: &str) -> Result<(), ConfigError> {
        let Some((name, key)) = path.split_once('.') else {
            return Err(ConfigError::of_key(origin, format!("{SERVICES}.{path}"), "is a section, not a key"));
        };
        let name = name.replace('_', "-");
        check_service_name(&name)
            .map_err(|reason| ConfigError::of_key(origin.clone(), format!("{SERVICES}.{name}"), reason))?;
        self.assign_service(&origin, &name, key, |slot| read(slot, text))
    }

    fn set(&mut self, origin: Origin, key: &str, text: &str) -> Result<(), ConfigError> {
        if let Some(path) = key.strip_prefix(SERVICES).and_then(|rest| rest.strip_prefix('.')) {
            return self.set_service(origin, path, text);
        }
        let path: Vec<String> = key.split('.').map(str::to_owned).collect();
        self.assign(&origin, &path, |slot| read(slot, text))
    }

    fn assign(
        &mut self,
        origin: &Origin,
        path: &[String],
        value: impl FnOnce(&Value) -> Result<Value, String>,
    ) -> Result<(), ConfigError> {
        let key = path.join(".");
        let slot = self.lookup(origin, path)?;
        if MAPS.contains(&key.as_str()) {
            *slot = Value::Table(Table::new());
        }
        *slot = value(slot).map_err(|reason| ConfigError::of_key(origin.clone(), &key, reason))?;
        self.origins.insert(key, origin.clone());
        Ok(())
    }

    /// The present value at `path`, or that there is no such key.
    fn lookup(&mut self, origin: &Origin, path: &[String]) -> Result<&mut Value, ConfigError> {
        if at(&mut self.values, path).is_none() {
            let reason = unknown_key(&self.values, path);
            return Err(ConfigError::of_key(origin.clone(), path.join("."), reason));
        }
        Ok(at(&mut self.values, path).expect("invariant: it was found just now"))
    }
}

/// Who set `key`, or what holds it (`server.allowed_origins[2]`).
pub(super) fn origin_of(origins: &Origins, key: &str) -> Origin {
    let mut key = key;
    loop {
        if let Some(origin) = origins.get(key) {
            return origin.clone();
        }
        match key.rfind(['.', '[']) {
            Some(end) => key = &key[..end],
            None => return Origin::BuiltIn,
        }
    }
}

fn at<'a>(table: &'a mut Table, path: &[String]) -> Option<&'a mut Value> {
    let (first, rest) = path.split_first()?;
    match table.get_mut(first)? {
        value if rest.is_empty() => Some(value),
        Value::Table(inner) => at(inner, rest),
        _ => None,
    }
}

/// `value`, as far as it is of the type that `slot` has. A whole number may stand where text or any number is expected.
///
/// The reason names types, never values: they may be secret.
fn convert(slot: &Value, value: Value) -> Result<Value, String> {
    match (slot, value) {
        (Value::String(_), Value::Integer(number)) => Ok(Value::String(number.to_string())),
        (Value::Float(_), Value::Integer(number)) => Ok(Value::Float(number as f64)),
        (slot, value) if slot.same_type(&value) => Ok(value),
        (slot, value) => Err(format!("must be {}, not {}", kind(slot), kind(&value))),
    }
}

/// `text` as a value of the type that `slot` has.
fn read(slot: &Value, text: &str) -> Result<Value, String> {
    let refuse = || format!("must be {}, not {text:?}", kind(slot));
    match slot {
        Value::String(_) => Ok(Value::String(text.to_owned())),
        Value::Integer(_) => text.trim().parse().map(Value::Integer).map_err(|_| refuse()),
        Value::Float(_) => text.trim().parse().map(Value::Float).map_err(|_| refuse()),
        Value::Boolean(_) => text.trim().parse().map(Value::Boolean).map_err(|_| refuse()),
        Value::Datetime(_) => text.trim().parse().map(Value::Datetime).map_err(|_| refuse()),
        Value::Array(_) => {
            if let Some(list) = inline(text, Value::is_array).or_else(|| json_list(text)) {
                return Ok(list);
            }
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            Ok(Value::Array(items.map(|item| Value::String(item.to_owned())).collect()))
        }
        // A section that is empty by default holds names of the user's choice.
        Value::Table(known) if known.is_empty() => {
            inline(text, Value::is_table).ok_or_else(|| r#"must be written as in a file: { key = "value" }"#.to_owned())
        }
        Value::Table(_) => Err("is a section, not a key".to_owned()),
    }
}

/// `text` as a list or a section written in one line of a file; none if it is not what it must be.
fn inline(text: &str, is_right: fn(&Value) -> bool) -> Option<Value> {
    let mut table = format!("value = {}", text.trim()).parse::<Table>().ok()?;
    let value = table.remove("value").filter(is_right)?;
    table.is_empty().then_some(value)
}

/// `text` as a list in JSON; none if it is not one, or TOML has no such value.
fn json_list(text: &str) -> Option<Value> {
    serde_json::from_str(text).ok().filter(Value::is_array)
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "text",
        Value::Integer(_) => "a whole number",
        Value::Float(_) => "a number",
        Value::Boolean(_) => "true or false",
        Value::Datetime(_) => "a date",
        Value::Array(_) => "a list",
        Value::Table(_) => "a section",
    }
}

fn syntax_error(path: &Path, text: &str, error: &toml::de::Error) -> ConfigError {
    let message = error.message().trim().replace('\n', ", ");
    let Some(span) = error.span() else {
        return ConfigError::of_file(path, message);
    };
    let before = text.get(..span.start).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().map_or(0, |last| last.chars().count()) + 1;
    ConfigError::of_file(path, format!("line {line}, column {column}: {message}"))
}

fn unknown_key(values: &Table, path: &[String]) -> String {
    // The innermost section that exists, and the name that it does not have.
    let mut siblings = values;
    let mut wrong = path.iter();
    let name = loop {
        let Some(name) = wrong.next() else { return "unknown key".to_owned() };
        match siblings.get(name) {
            Some(Value::Table(inner)) => siblings = inner,
            Some(_) => return format!("unknown key ({name:?} is not a section)"),
            None => break name,
        }
    };
    if let Some(near) = suggest(name, siblings.keys().map(String::as_str)) {
        return format!("unknown key (did you mean {near:?}?)");
    }
    let elsewhere = values.iter().find_map(|(section, value)| value.as_table()?.get(name).map(|_| section));
    match elsewhere {
        Some(section) => format!("unknown key (did you mean \"{section}.{name}\"?)"),
        None => format!("unknown key (known: {})", siblings.keys().map(String::as_str).collect::<Vec<_>>().join(", ")),
    }
}
