//! Tables for people, JSON for programs, and the machine it was measured on.

use std::collections::BTreeMap;
use std::path::Path;
use std::{fs, io};

use serde_json::{Value, json};

use crate::peers::Subject;

/// The figures of one case of a scenario, in the order to print.
pub struct Row {
    case: String,
    figures: Vec<(&'static str, f64)>,
    /// What was not as promised while measuring; each begins with a word in capitals.
    faults: Vec<String>,
}

impl Row {
    pub fn new(case: impl Into<String>, faults: Vec<String>) -> Self {
        Self { case: case.into(), figures: Vec::new(), faults }
    }

    pub fn figure(mut self, name: &'static str, value: f64) -> Self {
        self.figures.push((name, value));
        self
    }

    pub fn figures(mut self, figures: impl IntoIterator<Item = (&'static str, f64)>) -> Self {
        self.figures.extend(figures);
        self
    }

    pub fn prefix(mut self, prefix: &str) -> Self {
        self.case.insert_str(0, prefix);
        self
    }
}

/// All rounds of one case with one subject.
struct Record {
    scenario: &'static str,
    case: String,
    subject: String,
    figures: Vec<(&'static str, Vec<f64>)>,
    faults: Vec<String>,
    /// Of this project: its faults count.
    is_ours: bool,
}

impl Record {
    fn medians(&self) -> impl Iterator<Item = (&'static str, f64)> {
        self.figures.iter().map(|(name, values)| (*name, median(values)))
    }
}

#[derive(Default)]
pub struct Report {
    records: Vec<Record>,
}

impl Report {
    pub fn add(&mut self, scenario: &'static str, subject: &Subject, rows: io::Result<Vec<Row>>) {
        let rows = rows.unwrap_or_else(|error| vec![Row::new("", vec![format!("ERROR {error}")])]);
        for row in rows {
            let known = self.records.iter_mut().find(|record| {
                record.scenario == scenario && record.subject == subject.name && record.case == row.case
            });
            let Some(record) = known else {
                self.records.push(Record {
                    scenario,
                    case: row.case,
                    subject: subject.name.clone(),
                    figures: row.figures.into_iter().map(|(name, value)| (name, vec![value])).collect(),
                    faults: row.faults,
                    is_ours: subject.is_event_handler(),
                });
                continue;
            };
            for ((_, values), (_, value)) in record.figures.iter_mut().zip(row.figures) {
                values.push(value);
            }
            record.faults.extend(row.faults);
        }
    }

    /// Of the Event Handler, in whatever build and on whatever store.
    pub fn faults(&self) -> usize {
        self.records.iter().filter(|record| record.is_ours).map(|record| record.faults.len()).sum()
    }

    /// Medians over the rounds; below the lines of other systems, how `base` compares with them.
    pub fn print(&self, scenario: &str, base: &str) {
        let records = || self.records.iter().filter(|record| record.scenario == scenario);
        if let Some(heads) = records().find(|record| !record.figures.is_empty()) {
            print!("{:<44} {:<18}", "case", "system");
            heads.figures.iter().for_each(|(name, _)| print!("  {name:>WIDTH$}"));
            println!();
        }
        let mut cases: Vec<&str> = Vec::new();
        for record in records() {
            if !cases.contains(&record.case.as_str()) {
                cases.push(&record.case);
            }
        }
        for case in cases {
            let of_case = || records().filter(move |record| record.case == case && !record.figures.is_empty());
            let reference = of_case().find(|record| record.subject == base);
            for record in of_case() {
                print!("{case:<44} {:<18}", record.subject);
                record.medians().for_each(|(name, value)| print!("  {:>1$}", digits(value), width(name)));
                println!();
                if let Some(reference) = reference.filter(|reference| reference.subject != record.subject) {
                    print_ratios(reference, record);
                }
            }
        }
        records().for_each(print_faults);
    }

    pub fn write_json(&self, path: &Path, machine: &Machine, subjects: &[Subject], load: &Value) -> io::Result<()> {
        let records: Vec<Value> = self
            .records
            .iter()
            .map(|record| {
                let figures: BTreeMap<_, _> = (record.figures.iter())
                    .map(|(name, values)| (*name, json!({"median": median(values), "rounds": values})))
                    .collect();
                json!({
                    "scenario": record.scenario, "case": record.case, "system": record.subject,
                    "figures": figures, "faults": record.faults,
                })
            })
            .collect();
        let systems: Vec<Value> = (subjects.iter())
            .map(|subject| json!({"name": subject.name, "version": subject.version, "keeps": subject.keeps}))
            .collect();
        let report = json!({"machine": machine.to_json(), "load": load, "systems": systems, "results": records});
        fs::write(path, serde_json::to_string_pretty(&report)?)
    }
}

fn print_ratios(ours: &Record, theirs: &Record) {
    print!("{:<44} {:<18}", "", format!("  {} is", ours.subject));
    for ((name, ours), (_, theirs)) in ours.medians().zip(theirs.medians()) {
        let ratio = if name.ends_with('%') { String::new() } else { format!("× {:.2}", ours / theirs) };
        print!("  {ratio:>0$}", width(name));
    }
    println!();
}

/// Columns are as wide as their names, and at least this.
const WIDTH: usize = 9;

fn width(name: &str) -> usize {
    name.chars().count().max(WIDTH)
}

fn print_faults(record: &Record) {
    for fault in &record.faults {
        println!("  !! {} {} {}: {fault}", record.scenario, record.case, record.subject);
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted[(sorted.len() - 1) / 2]
}

/// Three significant digits or whole numbers.
fn digits(value: f64) -> String {
    match value.abs() {
        small if small < 10.0 => format!("{value:.2}"),
        middle if middle < 100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

/// What the figures depend on.
pub struct Machine {
    cpu: String,
    cores: usize,
    memory: String,
    kernel: String,
    file_system: String,
}

impl Machine {
    pub fn describe(directory: &Path) -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let cpus = read("/proc/cpuinfo");
        let models = || cpus.lines().filter_map(|line| line.strip_prefix("model name")?.split_once(": "));
        Self {
            cpu: models().next().map_or("unknown", |(_, model)| model).to_owned(),
            cores: models().count(),
            memory: read("/proc/meminfo").lines().next().map_or("unknown", str::trim).to_owned(),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            file_system: file_system_of(directory, &read("/proc/self/mounts")),
        }
    }

    pub fn print(&self) {
        let Self { cpu, cores, memory, kernel, file_system } = self;
        println!("machine: {cores} × {cpu}; {memory}; Linux {kernel}; stores on {file_system}");
    }

    fn to_json(&self) -> Value {
        let Self { cpu, cores, memory, kernel, file_system } = self;
        json!({"cpu": cpu, "cores": cores, "memory": memory, "kernel": kernel, "file_system": file_system})
    }
}

/// Type and options of the mount that holds `directory`.
fn file_system_of(directory: &Path, mounts: &str) -> String {
    let directory = directory.canonicalize().unwrap_or_else(|_| directory.into());
    let mount = mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .filter(|fields| fields.len() > 3 && directory.starts_with(fields[1]))
        .max_by_key(|fields| fields[1].len());
    mount.map_or("unknown".into(), |fields| format!("{} ({})", fields[2], fields[3]))
}
