//! Every opcode of the decode table has a test: the tests of this program run once more, on few operands, and what they
//! execute is compared with the table.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use cusim::program::{opcode, opcodes};

thread_local! {
    /// The mnemonics executed by this thread, once it records them.
    static EXECUTED: RefCell<Option<BTreeSet<String>>> = const { RefCell::new(None) };
}

/// Whether this thread records what it executes, for which one case of each test is enough.
pub fn is_recording() -> bool {
    EXECUTED.with_borrow(Option::is_some)
}

/// Notes the instructions of a body.
pub fn record(body: &str) {
    EXECUTED.with_borrow_mut(|executed| {
        let Some(executed) = executed else {
            return;
        };
        for statement in body.split([';', '{', '}', '\n', '"']) {
            let words = statement.split_whitespace();
            let mnemonic = words.skip_while(|word| word.starts_with('@') || word.ends_with(':'));
            executed.extend(mnemonic.take(1).map(str::to_owned));
        }
    });
}

/// The tests whose instructions count.
const TESTS: &[&[fn()]] = &[
    crate::access::TESTS,
    crate::arithmetic::TESTS,
    crate::atomic::TESTS,
    crate::barrier::TESTS,
    crate::bits::TESTS,
    crate::compare::TESTS,
    crate::convert::TESTS,
    crate::float::TESTS,
    crate::functions::TESTS,
    crate::half::TESTS,
    crate::integer::TESTS,
    crate::matrix::TESTS,
    crate::sets::TESTS,
    crate::spaces::TESTS,
    crate::vector::TESTS,
    crate::video::TESTS,
    crate::warp::TESTS,
    crate::widths::TESTS,
];

/// Tests of whole kernels, whose instructions count as they are written.
const ELSEWHERE: &[&str] = &[
    include_str!("../exec/control.rs"),
    include_str!("../exec/memory.rs"),
    include_str!("../exec/arithmetic.rs"),
    include_str!("../exec/faults.rs"),
    include_str!("../golden/faults.ptx"),
    include_str!("../fixtures/tiled.ptx"),
    include_str!("../fixtures/sample.ptx"),
];

#[test]
fn every_opcode_of_the_table_is_tested() {
    EXECUTED.set(Some(BTreeSet::new()));
    for test in TESTS.iter().copied().flatten() {
        test();
    }
    for source in ELSEWHERE {
        record(source);
    }
    let executed = EXECUTED.take().unwrap_or_default();
    let executed: Vec<_> = executed.iter().filter_map(|name| opcode(name)).collect();
    let names: BTreeSet<_> = executed.iter().map(|form| &form.name).collect();
    let mut options: BTreeMap<usize, BTreeSet<&str>> = BTreeMap::new();
    for form in &executed {
        options.entry(form.row).or_default().extend(&form.options);
    }
    let mut untested = BTreeSet::new();
    let mut first = BTreeMap::new();
    for form in opcodes() {
        first.entry(form.row).or_insert_with(|| form.name.clone());
        if !names.contains(&form.name) {
            untested.insert(form.name.clone());
        }
        let tested = options.get(&form.row);
        for option in &form.options {
            if tested.is_none_or(|tested: &BTreeSet<_>| !tested.contains(option)) {
                untested.insert(format!("{} with .{option}", first[&form.row]));
            }
        }
    }
    assert!(untested.is_empty(), "without a test: {untested:#?}");
}
