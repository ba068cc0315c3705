//! Control flow: which instruction may follow which, and in what order divergent lanes should run.

use super::ast::{Body, Instruction, Operand, Symbol};

/// The instructions that may execute after instruction `at`, in this function.
pub fn successors(body: &Body, at: usize) -> Vec<usize> {
    let instruction = &body.instructions[at];
    let mut next = branch_targets(body, instruction);
    let leaves = matches!(
        &*instruction.opcode,
        "bra" | "brx" | "ret" | "exit" | "trap"
    );
    if !leaves || instruction.guard.is_some() {
        next.push(at + 1);
    }
    next.retain(|&target| target < body.instructions.len());
    next
}

fn branch_targets(body: &Body, instruction: &Instruction) -> Vec<usize> {
    let label = |symbol: &Symbol| match symbol {
        Symbol::Label(id) => Some(*id),
        _ => None,
    };
    let target = |id| {
        body.labels
            .get(id_index(id))
            .map(|label| label.target as usize)
    };
    let symbols = instruction
        .operands
        .iter()
        .filter_map(|operand| match operand {
            Operand::Symbol(symbol, _) => label(symbol),
            _ => None,
        });
    match &*instruction.opcode {
        "bra" => symbols.filter_map(target).collect(),
        "brx" => symbols
            .filter_map(|list| body.targets.get(&list))
            .flatten()
            .filter_map(label)
            .filter_map(target)
            .collect(),
        _ => Vec::new(),
    }
}

fn id_index(id: super::ast::LabelId) -> usize {
    id.0 as usize
}

/// A rank for every instruction: a weak topological order (Bourdoncle, "Efficient chaotic iteration
/// strategies with widenings", 1993). An instruction ranks after all that lead to it, except through
/// a loop's back edge, and everything in a loop ranks before what follows the loop. A scheduler
/// that always runs the lanes of lowest rank therefore joins divergent lanes at the earliest
/// point where all of them can be.
pub fn ranks(body: &Body) -> Vec<u32> {
    let count = body.instructions.len();
    let successors: Vec<Vec<usize>> = (0..count).map(|at| successors(body, at)).collect();
    let mut ranks = vec![u32::MAX; count];
    let mut rank = 0;
    // Parts still to be ordered, the next one last: a set of instructions and where to start in it.
    let mut parts: Vec<Part> = vec![Part::Graph((0..count).collect())];
    let mut inside = vec![usize::MAX; count];
    let mut generation = 0;
    while let Some(part) = parts.pop() {
        match part {
            Part::Single(at) => {
                ranks[at] = rank;
                rank += 1;
            }
            Part::Graph(nodes) => {
                generation += 1;
                for &node in &nodes {
                    inside[node] = generation;
                }
                let within = |node: usize| inside[node] == generation;
                // Components come last first, so pushing them in that order pops the first.
                for component in components(&nodes, &successors, within) {
                    push_component(&mut parts, component);
                }
            }
        }
    }
    ranks
}

enum Part {
    Single(usize),
    Graph(Vec<usize>),
}

/// Orders a strongly connected component: its first instruction, then the rest without it.
fn push_component(parts: &mut Vec<Part>, component: Vec<usize>) {
    let head = component.iter().copied().min().unwrap_or_default();
    if component.len() > 1 {
        let rest = component.into_iter().filter(|&node| node != head).collect();
        parts.push(Part::Graph(rest));
    }
    parts.push(Part::Single(head));
}

/// Tarjan's algorithm (1972) without recursion: strongly connected components, each before all that
/// lead to it.
fn components(
    nodes: &[usize],
    successors: &[Vec<usize>],
    within: impl Fn(usize) -> bool,
) -> Vec<Vec<usize>> {
    let mut tarjan = Tarjan {
        index: vec![0; successors.len()],
        low: vec![0; successors.len()],
        on_stack: vec![false; successors.len()],
        stack: Vec::new(),
        next: 1,
        found: Vec::new(),
    };
    for &root in nodes {
        if tarjan.index[root] != 0 {
            continue;
        }
        let mut path = vec![(root, 0)];
        tarjan.enter(root);
        while let Some((node, edge)) = path.last_mut() {
            // Later successors first: what is finished first ends up last in the order, so that
            // unrelated branches keep the order of the text.
            let edges = &successors[*node];
            match edges.len().checked_sub(*edge + 1).map(|at| edges[at]) {
                Some(next) => {
                    *edge += 1;
                    let node = *node;
                    if !within(next) {
                        continue;
                    }
                    if tarjan.index[next] == 0 {
                        tarjan.enter(next);
                        path.push((next, 0));
                    } else if tarjan.on_stack[next] {
                        tarjan.low[node] = tarjan.low[node].min(tarjan.index[next]);
                    }
                }
                None => {
                    let node = *node;
                    path.pop();
                    tarjan.leave(node);
                    if let Some(&(parent, _)) = path.last() {
                        tarjan.low[parent] = tarjan.low[parent].min(tarjan.low[node]);
                    }
                }
            }
        }
    }
    tarjan.found
}

struct Tarjan {
    /// Order of discovery, 0 before it.
    index: Vec<u32>,
    low: Vec<u32>,
    on_stack: Vec<bool>,
    stack: Vec<usize>,
    next: u32,
    found: Vec<Vec<usize>>,
}

impl Tarjan {
    fn enter(&mut self, node: usize) {
        self.index[node] = self.next;
        self.low[node] = self.next;
        self.next += 1;
        self.stack.push(node);
        self.on_stack[node] = true;
    }

    fn leave(&mut self, node: usize) {
        if self.low[node] != self.index[node] {
            return;
        }
        let at = self
            .stack
            .iter()
            .rposition(|&other| other == node)
            .unwrap_or_default();
        let component = self.stack.split_off(at);
        for &member in &component {
            self.on_stack[member] = false;
        }
        self.found.push(component);
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    /// Ranks of the instructions of an entry, by the order of the text.
    fn ranks_of(statements: &str) -> Vec<u32> {
        let text = format!(
            ".version 9.0 .target sm_80 .address_size 64\n\
             .entry k() {{ .reg .pred p; .reg .b32 r; {statements} }}"
        );
        ranks(
            parse(&text).expect(statements).functions[0]
                .body
                .as_ref()
                .expect("a body"),
        )
    }

    #[test]
    fn straight_code_ranks_in_order() {
        assert_eq!(ranks_of("bar.sync 0; bar.sync 0; ret;"), [0, 1, 2]);
    }

    #[test]
    fn both_sides_of_a_branch_rank_before_the_join() {
        let r = ranks_of("@p bra b; bar.sync 0; bra c; b: bar.sync 0; c: ret;");
        assert!(r[1] < r[4] && r[3] < r[4] && r[0] < r[1].min(r[3]));
    }

    #[test]
    fn a_loop_ranks_before_what_follows_it_wherever_that_stands() {
        // The exit comes before the loop's tail in the text.
        let r = ranks_of("a: @p bra tail; exit_: ret; tail: bar.sync 0; @p bra a; bra exit_;");
        let [head, exit, tail, back, leave] = r[..] else {
            panic!("{r:?}")
        };
        assert!(
            head < tail && tail < back && back < exit && back < leave && leave < exit,
            "{r:?}"
        );
    }

    #[test]
    fn inner_loops_stay_together() {
        let r = ranks_of("o: bar.sync 0; i: bar.sync 0; @p bra i; bar.sync 0; @p bra o; ret;");
        assert_eq!(r, [0, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn irreducible_graphs_and_unreachable_code_have_ranks() {
        let r = ranks_of("@p bra b; a: bar.sync 0; b: bar.sync 0; @p bra a; ret; bar.sync 0;");
        let mut sorted = r.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, [0, 1, 2, 3, 4, 5], "{r:?}");
        assert!(r[0] < r[1] && r[3] < r[4]);
    }

    #[test]
    fn branch_tables_lead_to_every_target() {
        let r = ranks_of(
            "t: .branchtargets x, y; brx.idx r, t; y: bar.sync 0; bra z; x: bar.sync 0; z: ret;",
        );
        assert!(r[0] == 0 && r[4] == 4, "{r:?}");
    }
}
