//! Every form of an instruction that can be executed: the table that decoding consults first.
//!
//! An instruction is decoded only if one row takes up all of its modifiers; so none is ever passed over.
//! `ptxas` takes most modifiers in any order and so does this table, but types are told apart by their order.

mod table;

use std::collections::HashMap;
use std::sync::LazyLock;

/// One modifier of a row.
#[derive(Debug, Clone)]
struct Part {
    optional: bool,
    choices: Vec<&'static str>,
}

/// The modifiers of one row, in the order that the ISA writes them.
type Row = Vec<Part>;

static ROWS: LazyLock<Vec<(&'static str, Row)>> =
    LazyLock::new(|| table::FORMS.iter().flat_map(|line| rows(line)).collect());

static BY_OPCODE: LazyLock<HashMap<&'static str, Vec<usize>>> = LazyLock::new(|| {
    let mut found: HashMap<_, Vec<_>> = HashMap::new();
    for (at, (opcode, _)) in ROWS.iter().enumerate() {
        found.entry(*opcode).or_default().push(at);
    }
    found
});

/// A form of an instruction in the decode table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opcode {
    /// Which row of the table it is of.
    pub row: usize,
    /// The mnemonic without optional modifiers; the others are in the order that the PTX ISA writes them.
    pub name: String,
    /// Optional modifiers: those that there are, or in an instruction those that it has.
    pub options: Vec<&'static str>,
}

/// Every form that can be executed: each row of the decode table with each choice of its required modifiers.
pub fn opcodes() -> impl Iterator<Item = Opcode> {
    let rows = ROWS.iter().enumerate();
    rows.flat_map(|(at, (opcode, row))| {
        let optional = row.iter().filter(|part| part.optional);
        let options: Vec<_> = optional.flat_map(|part| part.choices.clone()).collect();
        let mut names = vec![(*opcode).to_owned()];
        for part in row.iter().filter(|part| !part.optional) {
            let with = |name: &String| -> Vec<String> {
                let choices = part.choices.iter();
                choices.map(|choice| format!("{name}.{choice}")).collect()
            };
            names = names.iter().flat_map(with).collect();
        }
        names.into_iter().map(move |name| Opcode {
            row: at,
            name,
            options: options.clone(),
        })
    })
}

/// The form of an instruction, given its mnemonic; `None` if it cannot be executed.
pub fn opcode(mnemonic: &str) -> Option<Opcode> {
    let mut parts = mnemonic.split('.');
    let name = parts.next()?;
    let modifiers: Vec<&str> = parts.collect();
    let (row, ordered) = row_of(name, &modifiers).ok()?;
    let mut found = Opcode {
        row,
        name: name.to_owned(),
        options: Vec::new(),
    };
    let mut ordered = ordered.into_iter().peekable();
    for part in &ROWS[row].1 {
        if let Some(choice) = ordered.next_if(|choice| part.choices.contains(choice)) {
            if part.optional {
                found.options.push(choice);
            } else {
                found.name = format!("{}.{choice}", found.name);
            }
        }
    }
    Some(found)
}

/// The modifiers of an instruction in the order of the row that takes them all.
pub(super) fn canonical(opcode: &str, modifiers: &[&str]) -> Result<Vec<&'static str>, String> {
    row_of(opcode, modifiers).map(|(_, ordered)| ordered)
}

/// The row that takes all modifiers, and their order in it.
fn row_of(opcode: &str, modifiers: &[&str]) -> Result<(usize, Vec<&'static str>), String> {
    let rows = BY_OPCODE
        .get(opcode)
        .ok_or("the instruction cannot be executed")?;
    let mut refused = None;
    for &row in rows {
        match fit(&ROWS[row].1, modifiers) {
            Ok(ordered) => return Ok((row, ordered)),
            // The complaint of the row that came closest.
            Err((at, left)) if refused.is_none_or(|(_, fewest)| left < fewest) => {
                refused = Some((at, left));
            }
            Err(_) => {}
        }
    }
    match refused.and_then(|(at, _)| modifiers.get(at?)) {
        Some(modifier) => Err(format!("the modifier .{modifier} cannot be executed")),
        None => Err("this form of the instruction cannot be executed".to_owned()),
    }
}

/// The modifiers in the order of a row; else the first that it does not take, and how many were amiss.
fn fit(row: &Row, modifiers: &[&str]) -> Result<Vec<&'static str>, (Option<usize>, usize)> {
    let mut taken = vec![false; modifiers.len()];
    let mut ordered = Vec::with_capacity(modifiers.len());
    let mut missing = 0;
    for part in row {
        let found = modifiers.iter().enumerate().find_map(|(at, modifier)| {
            let choice = part.choices.iter().find(|choice| *choice == modifier);
            choice.filter(|_| !taken[at]).map(|choice| (at, *choice))
        });
        match found {
            Some((at, choice)) => {
                taken[at] = true;
                ordered.push(choice);
            }
            None if part.optional => {}
            None => missing += 1,
        }
    }
    let left = taken.iter().filter(|taken| !**taken).count();
    let types = ordered.iter().filter(|modifier| is_type(modifier));
    let written = modifiers.iter().filter(|modifier| is_type(modifier));
    if left + missing == 0 && types.eq(written) {
        Ok(ordered)
    } else {
        Err((taken.iter().position(|taken| !taken), left + missing))
    }
}

/// Whether a modifier is a type, or could be one.
fn is_type(modifier: &str) -> bool {
    let rest = modifier.trim_start_matches(|letter: char| letter.is_ascii_lowercase());
    rest.starts_with(|letter: char| letter.is_ascii_digit())
}

/// The rows of one line of the table: `a,b .x|y ?.z` are two opcodes with a required and an optional modifier.
fn rows(line: &'static str) -> Vec<(&'static str, Row)> {
    let mut words = line.split_whitespace();
    let opcodes = words.next().unwrap_or_default();
    let row: Row = words
        .map(|word| {
            let choices = word.trim_start_matches(['?', '.']).split('|');
            Part {
                optional: word.starts_with('?'),
                choices: choices
                    .flat_map(|word| table::set(word).split('|'))
                    .collect(),
            }
        })
        .collect();
    let named = opcodes.split(',');
    named.map(|opcode| (opcode, row.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modifiers_come_in_the_order_of_the_table() {
        let ordered = canonical("fma", &["ftz", "rn", "f32"]);
        assert_eq!(ordered, Ok(vec!["rn", "ftz", "f32"]));
        let ordered = canonical("cvt", &["u64", "s8"]);
        assert_eq!(ordered, Ok(vec!["u64", "s8"]));
    }

    #[test]
    fn no_modifier_is_passed_over() {
        for (opcode, modifiers) in [
            ("add", &["sat", "u32"][..]),
            ("add", &["ftz", "f64"]),
            ("and", &["b32", "b32"]),
            ("shl", &["wrap", "b32"]),
            ("fma", &["rn", "relu", "f32"]),
            ("cvt", &["rn", "sat", "relu", "f16", "f32"]),
            ("exit", &["uni"]),
        ] {
            assert!(
                canonical(opcode, modifiers).is_err(),
                "{opcode} {modifiers:?}"
            );
        }
    }

    #[test]
    fn every_row_takes_its_own_mnemonics() {
        for form in opcodes() {
            let found = opcode(&form.name).unwrap_or_else(|| panic!("{}", form.name));
            assert_eq!(found.name, form.name);
            assert!(found.options.is_empty(), "{}", form.name);
        }
    }
}
