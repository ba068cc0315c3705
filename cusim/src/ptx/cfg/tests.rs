//! Orders of small graphs, and random programs run by rank against the same programs run by their
//! structure.

use std::collections::HashMap;
use std::fmt::Write;

use proptest::prelude::*;

use super::super::parse;
use super::*;

/// The body of an entry made of these statements.
fn body(statements: &str) -> Body {
    let text = format!(
        ".version 9.0 .target sm_80 .address_size 64\n\
         .entry k() {{ .reg .pred p; .reg .b32 r; {statements} }}"
    );
    let mut module = parse(&text).expect(statements);
    module.functions[0].body.take().expect("a body")
}

/// Ranks of the instructions, by the order of the text.
fn ranks_of(statements: &str) -> Vec<u32> {
    ranks(&body(statements))
}

#[test]
fn straight_code_ranks_in_order() {
    assert_eq!(ranks_of("bar.sync 0; bar.sync 0; ret;"), [0, 1, 2]);
    assert!(ranks_of("").is_empty());
}

#[test]
fn both_sides_of_a_branch_rank_before_the_join_and_in_text_order() {
    let r = ranks_of("@p bra b; bar.sync 0; bra c; b: bar.sync 0; c: ret;");
    assert_eq!(r, [0, 1, 2, 3, 4]);
}

#[test]
fn a_join_that_stands_first_in_the_text_ranks_last() {
    let r = ranks_of("bra go; join: ret; go: @p bra b; bra join; b: bra join;");
    assert_eq!(r, [0, 4, 1, 2, 3]);
}

#[test]
fn a_loop_ranks_before_what_follows_it_wherever_that_stands() {
    let r = ranks_of("a: @p bra tail; out: ret; tail: bar.sync 0; @p bra a; bra out;");
    let [head, out, tail, back, leave] = r[..] else {
        panic!("{r:?}")
    };
    assert!(
        tail < back && back < head && head < leave && leave < out,
        "{r:?}"
    );
}

#[test]
fn the_head_of_a_loop_waits_for_every_back_edge() {
    // The first way back must not start the next iteration before the second gets there.
    let r = ranks_of("a: @p bra b; @p bra a; ret; b: bar.sync 0; @p bra a; ret;");
    assert!([1, 3, 4].iter().all(|&inside| r[inside] < r[0]), "{r:?}");
    assert!([2, 5].iter().all(|&outside| r[outside] > r[0]), "{r:?}");
}

#[test]
fn inner_loops_stay_together_inside_outer_ones() {
    let r = ranks_of("o: bar.sync 0; i: bar.sync 0; @p bra i; bar.sync 0; @p bra o; ret;");
    // The inner loop, the rest of the outer one, the head of the outer one, the end.
    assert_eq!(r, [4, 0, 1, 2, 3, 5]);
}

#[test]
fn a_loop_that_is_entered_in_its_middle_has_its_head_there() {
    let r = ranks_of("bra test; work: bar.sync 0; @p bra work; test: @p bra work; ret;");
    assert_eq!(r, [0, 1, 2, 3, 4]);
}

#[test]
fn irreducible_graphs_have_ranks() {
    let r = ranks_of("@p bra b; a: bar.sync 0; b: bar.sync 0; @p bra a; ret;");
    let mut sorted = r.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, [0, 1, 2, 3, 4], "{r:?}");
    assert!(r[0] == 0 && r[4] == 4, "{r:?}");
}

#[test]
fn loops_nested_without_end_have_ranks() {
    let count = 20_000;
    let heads: String = (0..count).map(|n| format!("L{n}: bar.sync 0;\n")).collect();
    let backs: String = (0..count)
        .rev()
        .map(|n| format!("@p bra L{n};\n"))
        .collect();
    let mut r = ranks_of(&(heads + &backs));
    assert!(
        r[count - 1] < r[count],
        "inside, the order is that of the text"
    );
    assert!(
        r[100] > r[101] && r[100] > r[2 * count - 102],
        "heads rank last"
    );
    r.sort_unstable();
    assert!(r.into_iter().eq(0..2 * count as u32));
}

#[test]
fn code_that_nothing_leads_to_ranks_last() {
    assert_eq!(ranks_of("bra b; bar.sync 0; bra b; b: ret;"), [0, 2, 3, 1]);
}

#[test]
fn branch_tables_lead_to_every_target() {
    let statements =
        "t: .branchtargets x, y; brx.idx r, t; y: bar.sync 0; bra z; x: bar.sync 0; z: ret;";
    let body = body(statements);
    let mut next = successors(&body, 0);
    next.sort_unstable();
    assert_eq!(next, [1, 3]);
    assert_eq!(ranks(&body), [0, 1, 2, 3, 4]);
}

#[test]
fn guards_decide_whether_the_next_instruction_follows() {
    let body = body("@p ret; @p trap; exit; bra e; @p bra e; e: ret;");
    let next: Vec<_> = (0..6).map(|at| successors(&body, at)).collect();
    assert_eq!(
        next,
        [vec![1], vec![2], vec![], vec![5], vec![5, 5], vec![]]
    );
}

/// A structured program.
#[derive(Debug, Clone)]
enum Node {
    Work,
    If(Vec<Node>, Vec<Node>),
    /// Runs once at least, again while a condition at its end holds; whether `continue` goes back
    /// to the beginning without that condition.
    Loop(bool, Vec<Node>),
    /// These three happen to the lanes for which a condition holds.
    Break,
    Continue,
    Return,
}

fn program() -> impl Strategy<Value = Vec<Node>> {
    let leaf = prop_oneof![
        4 => Just(Node::Work),
        2 => Just(Node::Break),
        2 => Just(Node::Continue),
        1 => Just(Node::Return),
    ];
    let node = leaf.prop_recursive(5, 40, 4, |inner| {
        let list = prop::collection::vec(inner, 0..4);
        prop_oneof![
            (list.clone(), list.clone()).prop_map(|(yes, no)| Node::If(yes, no)),
            (any::<bool>(), list).prop_map(|(back, inside)| Node::Loop(back, inside)),
        ]
    });
    prop::collection::vec(node, 1..5)
}

/// Writes a program as PTX. Each condition is a `bra` of its own.
struct Writer {
    text: String,
    labels: usize,
    /// Where `continue` and `break` go.
    loops: Vec<(usize, usize)>,
}

impl Writer {
    fn line(&mut self, args: std::fmt::Arguments<'_>) {
        self.text.write_fmt(args).expect("text");
        self.text.push('\n');
    }

    fn label(&mut self) -> usize {
        self.labels += 1;
        self.labels
    }

    fn list(&mut self, nodes: &[Node]) {
        for node in nodes {
            let target = self.loops.last().copied();
            match (node, target) {
                (Node::If(yes, no), _) => {
                    let (other, join) = (self.label(), self.label());
                    self.line(format_args!("@p bra L{other};"));
                    self.list(yes);
                    self.line(format_args!("bra L{join}; L{other}:"));
                    self.list(no);
                    self.line(format_args!("L{join}:"));
                }
                (Node::Loop(back, inside), _) => {
                    let (head, next, out) = (self.label(), self.label(), self.label());
                    // Without an instruction of its own, an outer loop would begin where an inner
                    // one does, and the two would be one loop with two ways back.
                    self.line(format_args!("L{head}: bar.sync 0;"));
                    self.loops.push((if *back { head } else { next }, out));
                    self.list(inside);
                    self.loops.pop();
                    self.line(format_args!("L{next}: @p bra L{head}; L{out}:"));
                }
                (Node::Break, Some((_, out))) => self.line(format_args!("@p bra L{out};")),
                (Node::Continue, Some((next, _))) => self.line(format_args!("@p bra L{next};")),
                (Node::Return, _) => self.line(format_args!("@p ret;")),
                _ => self.line(format_args!("bar.sync 0;")),
            }
        }
    }
}

/// Eight lanes, and what each decides at which visit of which instruction: the same however they
/// are scheduled.
struct Lanes {
    seed: u64,
    visits: HashMap<(usize, usize), u64>,
}

const LANES: usize = 8;

impl Lanes {
    fn decides(&mut self, lane: usize, at: usize) -> bool {
        let visit = self.visits.entry((lane, at)).or_default();
        *visit += 1;
        let mut mixed = self.seed ^ (lane as u64) << 40 ^ (at as u64) << 20 ^ *visit;
        for _ in 0..3 {
            mixed = (mixed ^ mixed >> 31).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        }
        // No loop goes on for ever.
        mixed >> 62 == 0 && *visit < 6
    }

    fn split(&mut self, lanes: &[usize], at: usize) -> (Vec<usize>, Vec<usize>) {
        lanes.iter().partition(|&&lane| self.decides(lane, at))
    }
}

/// Runs a program as its structure says: all lanes that are in a construct, together.
struct Structured {
    lanes: Lanes,
    /// Instructions written so far, to know which one a condition is.
    steps: usize,
}

/// Where lanes are that left a list before its end.
#[derive(Default)]
struct Left {
    broke: Vec<usize>,
    continued: Vec<usize>,
}

impl Structured {
    /// Runs the list that starts at instruction `at`; returns the instruction behind it and the
    /// lanes that reached its end.
    fn list(
        &mut self,
        nodes: &[Node],
        mut at: usize,
        mut lanes: Vec<usize>,
        in_loop: bool,
        left: &mut Left,
    ) -> (usize, Vec<usize>) {
        for node in nodes {
            let here = at;
            at += 1;
            match node {
                Node::If(yes, no) => {
                    let (jump, stay) = self.step(&lanes, here);
                    let (end, mut stayed) = self.list(yes, at, stay, in_loop, left);
                    self.count(&stayed);
                    let (end, jumped) = self.list(no, end + 1, jump, in_loop, left);
                    stayed.extend(jumped);
                    (at, lanes) = (end, stayed);
                }
                Node::Loop(back, inside) => {
                    let mut out = Vec::new();
                    loop {
                        self.count(&lanes);
                        let mut inner = Left::default();
                        let (end, mut on) = self.list(inside, here + 1, lanes, true, &mut inner);
                        if !back {
                            on.append(&mut inner.continued);
                        }
                        out.append(&mut inner.broke);
                        let (again, done) = self.step(&on, end);
                        out.extend(done);
                        lanes = [again, inner.continued].concat();
                        at = end + 1;
                        if lanes.is_empty() {
                            break;
                        }
                    }
                    lanes = out;
                }
                Node::Break if in_loop => {
                    let (gone, stay) = self.step(&lanes, here);
                    left.broke.extend(gone);
                    lanes = stay;
                }
                Node::Continue if in_loop => {
                    let (gone, stay) = self.step(&lanes, here);
                    left.continued.extend(gone);
                    lanes = stay;
                }
                Node::Return => lanes = self.step(&lanes, here).1,
                _ => self.count(&lanes),
            }
        }
        (at, lanes)
    }

    fn count(&mut self, lanes: &[usize]) {
        self.steps += usize::from(!lanes.is_empty());
    }

    fn step(&mut self, lanes: &[usize], at: usize) -> (Vec<usize>, Vec<usize>) {
        self.count(lanes);
        self.lanes.split(lanes, at)
    }
}

/// Runs a body by rank; returns how many warp instructions that took.
fn by_rank(body: &Body, seed: u64) -> usize {
    let ranks = ranks(body);
    let mut lanes = Lanes {
        seed,
        visits: HashMap::new(),
    };
    let end = body.instructions.len();
    let mut at = [0; LANES];
    let mut steps = 0;
    while let Some(&lowest) = at
        .iter()
        .filter(|&&at| at < end)
        .min_by_key(|&&at| ranks[at])
    {
        steps += 1;
        let instruction = &body.instructions[lowest];
        let target = branch_targets(body, instruction).first().copied();
        for (lane, at) in at.iter_mut().enumerate().filter(|(_, at)| **at == lowest) {
            let taken = match (instruction.guard, &*instruction.opcode) {
                (Some(_), _) => lanes.decides(lane, lowest),
                (None, opcode) => opcode == "bra",
            };
            *at = match (taken, target) {
                (false, _) => lowest + 1,
                (true, Some(target)) => target,
                (true, None) => end,
            };
        }
    }
    steps
}

proptest! {
    /// Running by rank never takes more warp instructions than running by structure, in which
    /// lanes join at the end of each `if`, each iteration and each loop.
    #[test]
    fn ranks_join_lanes_as_early_as_the_structure_allows(nodes in program(), seed: u64) {
        let mut writer = Writer { text: String::new(), labels: 0, loops: Vec::new() };
        writer.list(&nodes);
        let body = body(&writer.text);
        let mut structured = Structured {
            lanes: Lanes { seed, visits: HashMap::new() },
            steps: 0,
        };
        let lanes = (0..LANES).collect();
        let (end, _) = structured.list(&nodes, 0, lanes, false, &mut Left::default());
        prop_assert_eq!(end, body.instructions.len());
        let steps = by_rank(&body, seed);
        prop_assert!(
            steps <= structured.steps,
            "{} by rank, {} by structure:\n{}", steps, structured.steps, writer.text
        );
    }

    /// Ranks are a permutation for every graph.
    #[test]
    fn any_graph_has_ranks(edges in prop::collection::vec((0..12usize, 0..12usize, any::<bool>()), 0..24)) {
        let mut text = String::new();
        for block in 0..12 {
            writeln!(text, "B{block}:").expect("text");
            for (_, to, guarded) in edges.iter().filter(|(from, ..)| *from == block) {
                writeln!(text, "{}bra B{to};", if *guarded { "@p " } else { "" }).expect("text");
            }
            writeln!(text, "bar.sync 0;").expect("text");
        }
        let mut ranks = ranks_of(&text);
        ranks.sort_unstable();
        prop_assert!(ranks.iter().enumerate().all(|(at, &rank)| at == rank as usize));
    }
}
