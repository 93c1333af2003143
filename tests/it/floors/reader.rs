//! Reads which module of a crate names which other: the `mod` declarations give the tree, `use` lines and paths in
//! code the references. What is compiled for tests alone is passed over.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// A module's path from the crate's root; the root's is empty.
pub type ModulePath = Vec<String>;

/// The modules of a crate by their paths.
#[derive(Default)]
pub struct Crate(pub BTreeMap<ModulePath, Module>);

/// What is read of one module.
#[derive(Default)]
pub struct Module {
    file: String,
    /// What `use` brings into it, by the name that it has here.
    imports: BTreeMap<String, Vec<String>>,
    /// Every path that it names, with its line.
    named: Vec<(usize, Vec<String>)>,
}

/// One module that names another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reference {
    pub from: ModulePath,
    pub to: ModulePath,
    /// The file and line that says so.
    pub place: String,
}

impl Crate {
    /// Reads the crate whose root is `lib.rs` in `folder`.
    pub fn read(folder: &Path) -> Self {
        let mut modules = Self::default();
        let mut open = vec![(ModulePath::new(), folder.join("lib.rs"))];
        while let Some((path, file)) = open.pop() {
            let text = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
            let shown = file.strip_prefix(folder).unwrap_or(&file).display().to_string();
            for child in modules.add(&path, &shown, &text) {
                open.push((child.clone(), file_of(folder, &child)));
            }
        }
        modules
    }

    /// Adds what one file says; the answer is the modules that it declares in files of their own.
    pub fn add(&mut self, path: &[String], file: &str, text: &str) -> Vec<ModulePath> {
        let mut parser = Parser { tokens: tokens(text), at: 0, file, modules: self, children: Vec::new() };
        parser.module(path.to_vec());
        parser.children
    }

    /// All references from a module to another.
    pub fn references(&self) -> BTreeSet<Reference> {
        let mut found = BTreeSet::new();
        for (from, module) in &self.0 {
            for (line, path) in &module.named {
                if let Some(to) = self.resolve(from, path, 0).filter(|to| to != from) {
                    found.insert(Reference { from: from.clone(), to, place: format!("{}:{line}", module.file) });
                }
            }
        }
        found
    }

    /// The module in which a path that `from` names ends; none if it leads out of the crate. A name that a module
    /// only passes on leads to the module that it comes from.
    fn resolve(&self, from: &[String], path: &[String], depth: usize) -> Option<ModulePath> {
        let mut at = from.to_vec();
        let mut rest = path;
        match path.first()?.as_str() {
            "crate" => (at, rest) = (ModulePath::new(), &path[1..]),
            "self" => rest = &path[1..],
            "super" => {}
            first => {
                let known = self.0.contains_key(&child(from, first)) || self.0[from].imports.contains_key(first);
                known.then_some(())?;
            }
        }
        for (index, name) in rest.iter().enumerate() {
            if name == "super" {
                at.pop();
            } else if self.0.contains_key(&child(&at, name)) {
                at.push(name.clone());
            } else if let Some(import) = self.0.get(&at).and_then(|module| module.imports.get(name)) {
                if depth > 16 || import.first() == Some(name) {
                    return None;
                }
                let passed_on: Vec<_> = import.iter().chain(&rest[index + 1..]).cloned().collect();
                return self.resolve(&at, &passed_on, depth + 1);
            } else {
                break;
            }
        }
        Some(at)
    }
}

fn child(of: &[String], name: &str) -> ModulePath {
    of.iter().cloned().chain([name.to_owned()]).collect()
}

fn file_of(folder: &Path, module: &[String]) -> PathBuf {
    let path: PathBuf = module.iter().collect();
    let own = folder.join(&path).with_extension("rs");
    if own.exists() { own } else { folder.join(path).join("mod.rs") }
}

struct Parser<'a> {
    tokens: Vec<Token>,
    at: usize,
    file: &'a str,
    modules: &'a mut Crate,
    children: Vec<ModulePath>,
}

impl Parser<'_> {
    fn text(&self, ahead: usize) -> &str {
        self.tokens.get(self.at + ahead).map_or("", |token| &token.text)
    }

    fn is_word(&self, ahead: usize) -> bool {
        self.text(ahead).starts_with(|first: char| first.is_alphabetic() || first == '_')
    }

    /// Reads up to the brace that ends the module, or the end of its file.
    fn module(&mut self, path: ModulePath) {
        self.modules.0.entry(path.clone()).or_default().file = self.file.to_owned();
        let mut depth = 0;
        while self.at < self.tokens.len() {
            match self.text(0) {
                "{" => depth += 1,
                "}" if depth == 0 => return,
                "}" => depth -= 1,
                "#" if self.text(1) == "[" || (self.text(1) == "!" && self.text(2) == "[") => {
                    if self.attribute_is_for_tests() {
                        self.skip_item();
                    }
                    continue;
                }
                "mod" if self.text(2) == ";" => {
                    let module = child(&path, self.text(1));
                    self.children.push(module);
                    self.at += 2;
                }
                "mod" if self.text(2) == "{" => {
                    let module = child(&path, self.text(1));
                    self.at += 3;
                    self.module(module);
                }
                // `use<'a>` among bounds imports nothing.
                "use" if self.text(1) != "<" => {
                    self.at += 1;
                    self.use_tree(&path, &mut Vec::new());
                }
                _ if self.is_word(0) && self.text(1) == "::" => {
                    let line = self.tokens[self.at].line;
                    let mut named = vec![self.text(0).to_owned()];
                    while self.text(1) == "::" && self.is_word(2) {
                        named.push(self.text(2).to_owned());
                        self.at += 2;
                    }
                    // The rest of a path behind type arguments is no path of its own.
                    self.name(&path, line, named);
                }
                _ => {}
            }
            self.at += 1;
        }
    }

    fn name(&mut self, module: &[String], line: usize, path: Vec<String>) {
        self.modules.0.get_mut(module).expect("a module being read").named.push((line, path));
    }

    /// One branch of a `use`, up to the `;`, `,` or `}` behind it.
    fn use_tree(&mut self, module: &[String], prefix: &mut Vec<String>) {
        let (line, begun) = (self.tokens[self.at].line, prefix.len());
        let mut grouped = false;
        let mut alias = None;
        loop {
            match self.text(0) {
                ";" | "," | "}" | "" => break,
                "{" => {
                    grouped = true;
                    self.at += 1;
                    while !matches!(self.text(0), "}" | ";" | "") {
                        self.use_tree(module, prefix);
                        if self.text(0) == "," {
                            self.at += 1;
                        }
                    }
                }
                "as" => {
                    alias = Some(self.text(1).to_owned());
                    self.at += 1;
                }
                "::" | "*" => {}
                "self" if !prefix.is_empty() => {}
                word => prefix.push(word.to_owned()),
            }
            self.at += 1;
        }
        if !grouped && !prefix.is_empty() {
            let globbed = self.tokens[self.at - 1].text == "*";
            let own_name = alias.unwrap_or_else(|| prefix.last().cloned().unwrap_or_default());
            if !globbed && own_name != "_" {
                let read = self.modules.0.get_mut(module).expect("a module being read");
                read.imports.insert(own_name, prefix.clone());
            }
            self.name(module, line, prefix.clone());
        }
        prefix.truncate(begun);
    }

    /// Reads an attribute; whether what follows is compiled for tests alone.
    fn attribute_is_for_tests(&mut self) -> bool {
        let mut said = String::new();
        while self.text(0) != "]" && self.at < self.tokens.len() {
            said.push_str(self.text(0));
            self.at += 1;
        }
        self.at += 1;
        said == "#[cfg(test)" || said.starts_with("#[cfg(all(test,")
    }

    fn skip_item(&mut self) {
        let mut depth = 0;
        while self.at < self.tokens.len() {
            match self.text(0) {
                "(" | "[" | "{" => depth += 1,
                ")" | "]" => depth -= 1,
                "}" if depth == 0 => return,
                "}" => {
                    depth -= 1;
                    if depth == 0 {
                        self.at += 1;
                        return;
                    }
                }
                ";" if depth == 0 => {
                    self.at += 1;
                    return;
                }
                _ => {}
            }
            self.at += 1;
        }
    }
}

struct Token {
    text: String,
    line: usize,
}

/// Words, `::` and single signs; comments, strings, characters and lifetimes are passed over.
fn tokens(text: &str) -> Vec<Token> {
    let text: Vec<char> = text.chars().collect();
    let (mut at, mut line, mut found) = (0, 1, Vec::new());
    let starts =
        |at: usize, with: &str| with.chars().enumerate().all(|(index, sign)| text.get(at + index) == Some(&sign));
    while at < text.len() {
        let begun = at;
        let word = |from: usize| {
            let letters = text[from..].iter().take_while(|sign| sign.is_alphanumeric() || **sign == '_');
            from + letters.count()
        };
        if starts(at, "//") {
            at += text[at..].iter().take_while(|sign| **sign != '\n').count();
        } else if starts(at, "/*") {
            at += 2;
            while at < text.len() && !starts(at, "*/") {
                at += 1;
            }
            at += 2;
        } else if let Some(end) = raw_string(&text, at) {
            at = end;
        } else if text[at] == '"' {
            at += 1;
            while at < text.len() && text[at] != '"' {
                at += if text[at] == '\\' { 2 } else { 1 };
            }
            at += 1;
        } else if text[at] == '\'' {
            if text.get(at + 1) == Some(&'\\') {
                at += 3 + text[at + 3..].iter().take_while(|sign| **sign != '\'').count() + 1;
            } else if text.get(at + 2) == Some(&'\'') {
                at += 3;
            } else {
                at = word(at + 1);
            }
        } else if text[at].is_alphabetic() || text[at] == '_' {
            at = word(at);
            found.push(Token { text: text[begun..at].iter().collect(), line });
        } else if starts(at, "::") {
            at += 2;
            found.push(Token { text: "::".into(), line });
        } else {
            at += 1;
            if !text[begun].is_whitespace() {
                found.push(Token { text: text[begun].into(), line });
            }
        }
        at = at.min(text.len());
        line += text[begun..at].iter().filter(|sign| **sign == '\n').count();
    }
    found
}

/// The end of the raw string that begins here.
fn raw_string(text: &[char], at: usize) -> Option<usize> {
    let before = at.checked_sub(1).map(|before| text[before]);
    if before.is_some_and(|sign| sign.is_alphanumeric() || sign == '_') {
        return None;
    }
    let from = at + usize::from(text[at] == 'b');
    (text.get(from) == Some(&'r')).then_some(())?;
    let hashes = text[from + 1..].iter().take_while(|sign| **sign == '#').count();
    (text.get(from + 1 + hashes) == Some(&'"')).then_some(())?;
    let mut end = from + hashes + 2;
    while end < text.len() {
        let closing =
            text[end] == '"' && text[end + 1..].iter().take(hashes).filter(|sign| **sign == '#').count() == hashes;
        if closing {
            return Some(end + 1 + hashes);
        }
        end += 1;
    }
    Some(end)
}
