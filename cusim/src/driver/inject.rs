//! Calls that are made to fail, so that programs can be tested where the driver turns them down.
//!
//! `CUSIM_FAIL` is a list with commas between: `alloc:3` fails the third allocation, `launch:1` the first launch;
//! the other groups are `copy`, `module` and `sync`. Instead of a group any function can be named, and an error by
//! its number or name: `cuEventCreate:2=CUDA_ERROR_OUT_OF_MEMORY`.

use std::sync::{LazyLock, Mutex, PoisonError};

use super::status::Status;

/// One call that is to fail.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    what: String,
    /// Calls that are still to come before the one that fails; nothing once it has failed.
    before: Option<u64>,
    status: Status,
}

/// A group of functions by the beginnings of their names, and the error that a driver would most likely give.
const GROUPS: &[(&str, &[&str], Status)] = &[
    (
        "alloc",
        &["cuMemAlloc", "cuMemHostAlloc"],
        Status::OUT_OF_MEMORY,
    ),
    (
        "launch",
        &[
            "cuLaunchKernel",
            "cuLaunchCooperativeKernel",
            "cuGraphLaunch",
        ],
        Status::LAUNCH_OUT_OF_RESOURCES,
    ),
    ("copy", &["cuMemcpy"], Status::UNKNOWN),
    (
        "module",
        &["cuModuleLoad", "cuLibraryLoad"],
        Status::OUT_OF_MEMORY,
    ),
    (
        "sync",
        &[
            "cuStreamSynchronize",
            "cuCtxSynchronize",
            "cuEventSynchronize",
        ],
        Status::LAUNCH_FAILED,
    ),
];

fn parse(text: &str) -> Option<Rule> {
    let (call, status) = match text.split_once('=') {
        Some((call, status)) => (call, Some(Status::find(status.trim())?)),
        None => (text, None),
    };
    let (what, count) = call.split_once(':')?;
    let (what, count) = (what.trim(), count.trim().parse::<u64>().ok()?);
    let group = GROUPS.iter().find(|(name, ..)| *name == what);
    let usual = match group {
        Some((_, _, status)) => *status,
        None if what.starts_with("cu") => Status::UNKNOWN,
        None => return None,
    };
    Some(Rule {
        what: what.to_owned(),
        before: Some(count.checked_sub(1)?),
        status: status.unwrap_or(usual),
    })
}

fn concerns(what: &str, function: &str) -> bool {
    match GROUPS.iter().find(|(name, ..)| *name == what) {
        Some((_, beginnings, _)) => beginnings.iter().any(|start| function.starts_with(start)),
        // The version may be left out.
        None => function == what || function.split("_v").next() == Some(what),
    }
}

/// Counts a call, which fails with what is returned.
fn count(rules: &mut [Rule], function: &str) -> Option<Status> {
    let mut failure = None;
    for rule in rules
        .iter_mut()
        .filter(|rule| concerns(&rule.what, function))
    {
        match rule.before {
            Some(0) => {
                rule.before = None;
                failure = failure.or(Some(rule.status));
            }
            Some(before) => rule.before = Some(before - 1),
            None => {}
        }
    }
    failure
}

static RULES: LazyLock<Mutex<Vec<Rule>>> = LazyLock::new(|| {
    let text = std::env::var("CUSIM_FAIL").unwrap_or_default();
    let mut rules = Vec::new();
    for part in text.split(',').filter(|part| !part.trim().is_empty()) {
        match parse(part.trim()) {
            Some(rule) => rules.push(rule),
            None => eprintln!("cusim: CUSIM_FAIL: `{part}` makes no sense; an example is alloc:3"),
        }
    }
    Mutex::new(rules)
});

/// The error that a call of this function is to fail with.
pub(super) fn failure(function: &str) -> Option<Status> {
    let mut rules = RULES.lock().unwrap_or_else(PoisonError::into_inner);
    if rules.is_empty() {
        return None;
    }
    let status = count(&mut rules, function)?;
    eprintln!(
        "cusim: {function} fails with {} as CUSIM_FAIL asks",
        status.name()
    );
    Some(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_call_that_was_named_fails_once() {
        let mut rules = vec![
            parse("alloc:2").expect("a rule"),
            parse("cuEventCreate:1=CUDA_ERROR_OUT_OF_MEMORY").expect("a rule"),
            parse("cuMemcpyHtoD:1=999").expect("a rule"),
        ];
        assert_eq!(count(&mut rules, "cuMemAlloc_v2"), None);
        assert_eq!(count(&mut rules, "cuMemFree_v2"), None);
        assert_eq!(
            count(&mut rules, "cuMemAllocAsync"),
            Some(Status::OUT_OF_MEMORY)
        );
        assert_eq!(count(&mut rules, "cuMemAlloc_v2"), None);
        assert_eq!(
            count(&mut rules, "cuEventCreate"),
            Some(Status::OUT_OF_MEMORY)
        );
        assert_eq!(count(&mut rules, "cuMemcpyHtoDAsync_v2"), None);
        assert_eq!(count(&mut rules, "cuMemcpyHtoD_v2"), Some(Status::UNKNOWN));
    }

    #[test]
    fn what_makes_no_sense_is_no_rule() {
        for text in [
            "",
            "alloc",
            "alloc:0",
            "alloc:x",
            "fish:1",
            "alloc:1=FISH",
            ":1",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
