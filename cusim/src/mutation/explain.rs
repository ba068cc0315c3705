//! Why a mutant that nothing catches is harmless: a list for people, checked against what survives.

use std::collections::HashMap;
use std::fmt;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use super::{Kind, Mutant};

/// One explanation. It goes for the mutants that all its fields describe.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Explanation {
    /// The kernels: names in which `*` stands for anything.
    pub kernels: Vec<String>,
    /// What is changed.
    pub kinds: Vec<Kind>,
    /// The file, or the end of its path.
    pub file: String,
    /// What the line of the source contains; any line when empty. Text, so that it outlives other lines
    /// that come and go.
    #[serde(default)]
    pub code: String,
    /// What a line contains that the function was inlined into, directly or through others; any when empty.
    #[serde(default)]
    pub inlined_at: String,
    /// What the instruction contains; any instruction when empty.
    #[serde(default)]
    pub instruction: String,
    /// Why this does no harm.
    pub why: String,
}

impl Explanation {
    /// Whether it may explain a mutant of this kernel.
    pub fn concerns(&self, kernel: &str) -> bool {
        self.kernels.iter().any(|pattern| matches(pattern, kernel))
    }
}

/// A checked-in list of explanations.
#[derive(Debug)]
pub struct Explanations {
    list: Vec<Explanation>,
    used: Vec<bool>,
    sources: Sources,
}

/// The line of source that a mutant changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// The file, below the root of the sources where it is there.
    pub file: String,
    /// Line, from 1.
    pub line: u32,
    /// What is there, without the blanks around it; empty when the file cannot be read.
    pub code: String,
    /// The lines that the function was inlined into, the innermost call first.
    pub inlined_at: Vec<Site>,
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.code)?;
        let mut callers = self.inlined_at.iter();
        callers.try_for_each(|caller| write!(f, "\n      in {caller}"))
    }
}

impl Explanations {
    /// A list, for modules whose sources are below `root`, wherever they were when they were compiled.
    pub fn new(list: Vec<Explanation>, root: &Path) -> Self {
        Self {
            used: vec![false; list.len()],
            list,
            sources: Sources {
                root: root.to_owned(),
                lines: HashMap::new(),
            },
        }
    }

    /// Where a mutant is.
    pub fn site(&mut self, mutant: &Mutant) -> Site {
        let places = mutant.source.iter();
        let sites = places.map(|(path, line)| self.sources.site(path, *line));
        let mut sites: Vec<Site> = sites.collect();
        if sites.is_empty() {
            sites.push(self.sources.site("", 0));
        }
        let inlined_at = sites.split_off(1);
        let site = sites.remove(0);
        Site { inlined_at, ..site }
    }

    /// The first explanation of a survivor. The list notes that it was needed.
    pub fn explain(&mut self, survivor: &Mutant) -> Option<&Explanation> {
        let site = self.site(survivor);
        let found = self.list.iter().position(|explanation| {
            let Explanation {
                kernels: _,
                kinds,
                file,
                code,
                inlined_at,
                instruction,
                why: _,
            } = explanation;
            explanation.concerns(&survivor.kernel)
                && kinds.contains(&survivor.kind)
                && Path::new(&site.file).ends_with(file)
                && site.code.contains(code)
                && (inlined_at.is_empty()
                    || site
                        .inlined_at
                        .iter()
                        .any(|at| at.code.contains(inlined_at)))
                && survivor.instruction.contains(instruction)
        })?;
        self.used[found] = true;
        Some(&self.list[found])
    }

    /// Explanations that nothing needed so far.
    pub fn stale(&self) -> impl Iterator<Item = &Explanation> {
        let unused = self.list.iter().zip(&self.used);
        unused.filter(|(_, used)| !**used).map(|(each, _)| each)
    }
}

/// Whether a name fits a pattern in which `*` stands for anything.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((start, rest)) => name.strip_prefix(start).is_some_and(|name| {
            let mut ends = (0..=name.len()).filter(|&at| name.is_char_boundary(at));
            ends.any(|at| matches(rest, &name[at..]))
        }),
    }
}

/// Files by the path they had when they were compiled.
#[derive(Debug)]
struct Sources {
    root: PathBuf,
    lines: HashMap<String, (String, Vec<String>)>,
}

impl Sources {
    fn site(&mut self, path: &str, line: u32) -> Site {
        if !self.lines.contains_key(path) {
            let found = self.read(path);
            self.lines.insert(path.to_owned(), found);
        }
        let (file, lines) = &self.lines[path];
        let code = (line as usize).checked_sub(1).and_then(|at| lines.get(at));
        Site {
            file: file.clone(),
            line,
            code: code.cloned().unwrap_or_default(),
            inlined_at: Vec::new(),
        }
    }

    /// The longest end of a path that is below the root, or the path itself; and its lines.
    fn read(&self, path: &str) -> (String, Vec<String>) {
        let mut parts: Vec<&str> = Vec::new();
        for part in Path::new(path).components() {
            match part {
                Component::ParentDir => drop(parts.pop()),
                Component::Normal(part) => parts.extend(part.to_str()),
                _ => {}
            }
        }
        let ends = (0..parts.len()).map(|at| parts[at..].join("/"));
        let below = ends
            .into_iter()
            .find(|end| self.root.join(end).is_file())
            .map(|end| (self.root.join(&end), end));
        let (place, file) = below.unwrap_or_else(|| (PathBuf::from(path), parts.join("/")));
        let text = std::fs::read_to_string(place).unwrap_or_default();
        let lines = text.lines().map(|line| line.trim().to_owned()).collect();
        (file, lines)
    }
}
