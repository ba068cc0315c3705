//! Control flow: which instruction may follow which, and in what order divergent lanes should run.

use super::ast::{Body, Instruction, LabelId, Operand, Symbol};

/// The instructions that may execute after instruction `at`, in this function.
pub fn successors(body: &Body, at: usize) -> Vec<usize> {
    let instruction = &body.instructions[at];
    let mut next = branch_targets(body, instruction);
    if !is_terminator(instruction) || instruction.guard.is_some() {
        next.push(at + 1);
    }
    next.retain(|&target| target < body.instructions.len());
    next
}

/// True for what does not go on to the next instruction, unless a guard is false.
fn is_terminator(instruction: &Instruction) -> bool {
    matches!(
        &*instruction.opcode,
        "bra" | "brx" | "ret" | "exit" | "trap"
    )
}

fn branch_targets(body: &Body, instruction: &Instruction) -> Vec<usize> {
    let label = |operand: &Operand| match operand {
        Operand::Symbol(Symbol::Label(id), _) => Some(*id),
        _ => None,
    };
    let target = |id: LabelId| body.labels[id.0 as usize].target as usize;
    let labels = instruction.operands.iter().filter_map(label);
    match &*instruction.opcode {
        "bra" => labels.map(target).collect(),
        "brx" => {
            let targets = labels.filter_map(|list| body.targets.get(&list)).flatten();
            let targets = targets.filter_map(|symbol| match symbol {
                Symbol::Label(id) => Some(*id),
                _ => None,
            });
            targets.map(target).collect()
        }
        _ => Vec::new(),
    }
}

/// A rank for every instruction, such that a scheduler that always runs the lanes of lowest rank
/// joins divergent lanes as early as they can be.
///
/// It is a weak topological order (Bourdoncle, "Efficient chaotic iteration strategies with
/// widenings", 1993): an instruction ranks after all that lead to it, and a loop, with all that is
/// nested in it, ranks before everything that follows it. Only the place of a loop's head differs
/// from Bourdoncle's: it ranks last in its loop. Whoever gets there, from outside or over one of
/// several back edges, waits until nobody is left inside, so that the lanes that `continue` and
/// those that reach the end start the next iteration together.
///
/// Blocks that nothing leads to rank last.
pub fn ranks(body: &Body) -> Vec<u32> {
    let graph = Graph::new(body);
    let mut ranks = vec![0; body.instructions.len()];
    let mut rank = 0;
    for block in graph.weak_topological_order() {
        for place in &mut ranks[graph.starts[block]..graph.starts[block + 1]] {
            *place = rank;
            rank += 1;
        }
    }
    ranks
}

/// Basic blocks and their edges.
struct Graph {
    /// First instruction of each block, and the number of instructions.
    starts: Vec<usize>,
    /// Later blocks first: the search below finishes those first, which leaves branches that do
    /// not depend on each other in the order of the text.
    successors: Vec<Vec<usize>>,
}

impl Graph {
    fn new(body: &Body) -> Self {
        let count = body.instructions.len();
        let mut is_start = vec![false; count + 1];
        is_start[0] = true;
        is_start[count] = true;
        for label in &body.labels {
            is_start[label.target as usize] = true;
        }
        for (at, instruction) in body.instructions.iter().enumerate() {
            is_start[at + 1] |= is_terminator(instruction);
        }
        let starts: Vec<usize> = (0..=count).filter(|&at| is_start[at]).collect();
        let block_at = |at: usize| starts.partition_point(|&start| start < at);
        let ends = starts.iter().skip(1);
        let successors = ends.map(|end| {
            let next = successors(body, end - 1);
            let mut blocks: Vec<usize> = next.into_iter().map(block_at).collect();
            blocks.sort_unstable_by(|a, b| b.cmp(a));
            blocks.dedup();
            blocks
        });
        Self {
            successors: successors.collect(),
            starts,
        }
    }

    fn weak_topological_order(&self) -> Vec<usize> {
        let count = self.successors.len();
        let mut search = Search::new(self);
        let mut order = Vec::with_capacity(count);
        let mut regions = 0;
        // What is still to be ordered, the next part last.
        let entry = (count > 0).then_some(0);
        let mut parts = vec![Part::Region(regions, Vec::from_iter(entry), 0)];
        while let Some(part) = parts.pop() {
            let (region, roots, depth) = match part {
                Part::Block(block) => {
                    order.push(block);
                    continue;
                }
                Part::Region(region, roots, depth) => (region, roots, depth),
            };
            for component in search.components(region, &roots) {
                // A search comes upon a loop at its entry.
                let (head, rest) = (component[0], &component[1..]);
                parts.push(Part::Block(head));
                if depth == MAX_NESTING {
                    let mut rest = rest.to_vec();
                    rest.sort_unstable_by(|a, b| b.cmp(a));
                    parts.extend(rest.into_iter().map(Part::Block));
                } else if !rest.is_empty() {
                    regions += 1;
                    rest.iter()
                        .for_each(|&block| search.region[block] = regions);
                    let roots = self.successors[head].clone();
                    parts.push(Part::Region(regions, roots, depth + 1));
                }
            }
        }
        let mut is_reached = vec![false; count];
        order.iter().for_each(|&block| is_reached[block] = true);
        order.extend((0..count).filter(|&block| !is_reached[block]));
        order
    }
}

/// Loops nest no deeper in any real program. Inside deeper ones the order is that of the text, so
/// that the time stays linear.
const MAX_NESTING: usize = 256;

/// A part of the order.
enum Part {
    Block(usize),
    /// The blocks of a region, all of which can be reached from these, and in how many loops.
    Region(usize, Vec<usize>, usize),
}

/// Strongly connected components of parts of a graph (Tarjan, "Depth-first search and linear graph
/// algorithms", 1972), without recursion.
struct Search<'a> {
    graph: &'a Graph,
    /// The region that each block is in: a search does not leave one.
    region: Vec<usize>,
    /// Order of discovery. It goes on from search to search, so that nothing must be reset.
    index: Vec<usize>,
    low: Vec<usize>,
    next: usize,
    stack: Vec<usize>,
    on_stack: Vec<bool>,
}

impl<'a> Search<'a> {
    fn new(graph: &'a Graph) -> Self {
        let count = graph.successors.len();
        Self {
            graph,
            region: vec![0; count],
            index: vec![0; count],
            low: vec![0; count],
            next: 1,
            stack: Vec::new(),
            on_stack: vec![false; count],
        }
    }

    /// The components of a region, each before all that lead to it and with its entry first.
    fn components(&mut self, region: usize, roots: &[usize]) -> Vec<Vec<usize>> {
        let graph = self.graph;
        let before = self.next;
        let mut found = Vec::new();
        for &root in roots {
            if self.region[root] != region || self.index[root] >= before {
                continue;
            }
            // Blocks on the way here, and how many of their edges have been followed.
            let mut path = vec![(root, 0)];
            self.discover(root);
            while let Some((block, edge)) = path.last_mut() {
                let block = *block;
                if let Some(&next) = graph.successors[block].get(*edge) {
                    *edge += 1;
                    if self.region[next] != region {
                        continue;
                    }
                    if self.index[next] < before {
                        self.discover(next);
                        path.push((next, 0));
                    } else if self.on_stack[next] {
                        self.low[block] = self.low[block].min(self.index[next]);
                    }
                    continue;
                }
                path.pop();
                if let Some(&(parent, _)) = path.last() {
                    self.low[parent] = self.low[parent].min(self.low[block]);
                }
                found.extend(self.component(block));
            }
        }
        found
    }

    fn discover(&mut self, block: usize) {
        self.index[block] = self.next;
        self.low[block] = self.next;
        self.next += 1;
        self.stack.push(block);
        self.on_stack[block] = true;
    }

    /// Takes off the stack the component that this block is the entry of, if it is one.
    fn component(&mut self, block: usize) -> Option<Vec<usize>> {
        if self.low[block] != self.index[block] {
            return None;
        }
        let at = self.stack.iter().rposition(|&other| other == block)?;
        let component = self.stack.split_off(at);
        component
            .iter()
            .for_each(|&member| self.on_stack[member] = false);
        Some(component)
    }
}

#[cfg(test)]
mod tests;
