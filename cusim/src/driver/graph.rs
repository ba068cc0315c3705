//! Graphs: work that was captured, and what makes it run.
//!
//! A graph that is launched does its nodes one after the other, each ordered after those that it depends on and
//! after nothing else. So two nodes that access the same memory without an edge between them race, whatever order
//! they happen to run in.

use std::collections::HashMap;
use std::sync::Arc;

use super::abi::{Out, driver_api};
use super::handle::{Handle, Object};
use super::order::{Clock, Kind, Lane};
use super::state::{State, lock};
use super::status::Status;
use super::stream::Stream;
use super::work::{Work, perform};

/// A graph.
#[derive(Default)]
pub(crate) struct Graph {
    nodes: Vec<Handle<Node>>,
}

impl Object for Graph {
    const TAG: u64 = 10;
    const WRONG: Status = Status::INVALID_VALUE;
}

/// A node of a graph.
pub(crate) struct Node {
    call: &'static str,
    work: Work,
    /// The nodes it comes after.
    pub(super) after: Vec<Handle<Node>>,
    graph: Handle<Graph>,
}

impl Object for Node {
    const TAG: u64 = 11;
    const WRONG: Status = Status::INVALID_VALUE;
}

/// A node of a graph that can be launched.
struct Step {
    call: &'static str,
    work: Work,
    /// Steps it comes after, which stand before it.
    after: Vec<usize>,
    /// Which of the graph's own streams it is in: one for each run of steps of which each follows the last.
    stream: u64,
}

/// A graph that can be launched.
pub(crate) struct Exec {
    steps: Arc<[Step]>,
    flags: u64,
    /// What happens before it is over: no graph runs twice at a time.
    done: Clock,
}

impl Object for Exec {
    const TAG: u64 = 12;
    const WRONG: Status = Status::INVALID_VALUE;
}

/// Flags of instantiation (`CUgraphInstantiate_flags`); the others say when and with what priority.
const AUTO_FREE: u64 = 1;
const DEVICE_LAUNCH: u64 = 4;
const FLAGS: u64 = 15;

/// `CUgraphNodeType`.
fn kind(work: &Work) -> u32 {
    match work {
        Work::Launch(_) => 0,
        Work::Copy { .. } | Work::CopyPlanes(_) => 1,
        Work::Fill(_) => 2,
        Work::CallBack { .. } => 3,
        Work::Wait(_) => 6,
        Work::Record(_) => 7,
        Work::Allocate(_) => 10,
        Work::Free(_) => 11,
    }
}

impl State {
    pub(super) fn add_node(
        &mut self,
        graph: Handle<Graph>,
        call: &'static str,
        work: Work,
        after: Vec<Handle<Node>>,
    ) -> Result<Handle<Node>, Status> {
        let node = self.nodes.insert(Node {
            call,
            work,
            after,
            graph,
        });
        self.graphs.get_mut(graph)?.nodes.push(node);
        Ok(node)
    }

    pub(super) fn destroy_graph(&mut self, graph: Handle<Graph>) {
        if let Ok(graph) = self.graphs.remove(graph) {
            for node in graph.nodes {
                // It is there: nodes go with their graphs only.
                let _ = self.nodes.remove(node);
            }
        }
    }

    /// The nodes of a graph in an order in which each stands after those it depends on: that of their capture.
    fn steps(&self, graph: Handle<Graph>) -> Result<Arc<[Step]>, Status> {
        let nodes = &self.graphs.get(graph)?.nodes;
        let indices: HashMap<_, _> = nodes.iter().copied().zip(0_usize..).collect();
        let mut steps: Vec<Step> = Vec::with_capacity(nodes.len());
        let mut last_of_stream: Vec<usize> = Vec::new();
        for (index, node) in nodes.iter().enumerate() {
            let node = self.nodes.get(*node)?;
            let after = node
                .after
                .iter()
                .filter_map(|node| indices.get(node).copied());
            let after: Vec<usize> = after.collect();
            let followed = after.iter().map(|&before| (steps[before].stream, before));
            let mut followed =
                followed.filter(|&(stream, before)| last_of_stream[stream as usize] == before);
            let stream = followed.next().map(|(stream, _)| stream);
            let stream = stream.unwrap_or_else(|| {
                last_of_stream.push(index);
                last_of_stream.len() as u64 - 1
            });
            last_of_stream[stream as usize] = index;
            steps.push(Step {
                call: node.call,
                work: node.work.clone(),
                after,
                stream,
            });
        }
        Ok(steps.into())
    }

    fn instantiate(&mut self, graph: Handle<Graph>, flags: u64) -> Result<Handle<Exec>, Status> {
        let steps = self.steps(graph)?;
        if flags & !FLAGS != 0 || flags & (AUTO_FREE | DEVICE_LAUNCH) == AUTO_FREE | DEVICE_LAUNCH {
            return Err(Status::INVALID_VALUE);
        }
        if flags & DEVICE_LAUNCH != 0 {
            super::stubs::not_supported("launching graphs from kernels")?;
        }
        Ok(self.execs.insert(Exec {
            steps,
            flags,
            done: Clock::default(),
        }))
    }

    /// Puts the nodes of a graph that a captured stream launches into the graph that is captured.
    fn capture_launch(
        &mut self,
        exec: Handle<Exec>,
        stream: Handle<Stream>,
    ) -> Result<bool, Status> {
        let steps = self.execs.get(exec)?.steps.clone();
        let Some((graph, tips)) = self.captured_tips(stream)? else {
            self.check_default_stream(stream)?;
            return Ok(false);
        };
        let first = tips.clone();
        let mut nodes = Vec::with_capacity(steps.len());
        for step in &*steps {
            let after = if step.after.is_empty() {
                first.clone()
            } else {
                step.after.iter().map(|&before| nodes[before]).collect()
            };
            nodes.push(self.add_node(graph, step.call, step.work.clone(), after)?);
        }
        let mut is_last = vec![true; nodes.len()];
        for before in steps.iter().flat_map(|step| &step.after) {
            is_last[*before] = false;
        }
        let last = nodes.iter().zip(is_last).filter(|(_, is_last)| *is_last);
        let last: Vec<_> = last.map(|(node, _)| *node).collect();
        if let Some((_, tips)) = self.captured_tips(stream)?
            && !last.is_empty()
        {
            *tips = last;
        }
        Ok(true)
    }

    /// Frees what the last launch of a graph allocated and nobody freed, where that was asked for.
    fn free_allocated(&mut self, exec: Handle<Exec>, lane: Lane) -> Result<(), Status> {
        let exec = self.execs.get(exec)?;
        if exec.flags & AUTO_FREE == 0 {
            return Ok(());
        }
        let allocated = exec.steps.iter().filter_map(|step| match &step.work {
            Work::Allocate(reservation) => Some(reservation.address),
            _ => None,
        });
        let live = |address: &u64| self.memory.find(*address).is_some_and(|found| found.live);
        let left: Vec<u64> = allocated.filter(live).collect();
        for address in left {
            self.begin("cuGraphLaunch", lane);
            self.release("cuGraphLaunch", address)?;
        }
        Ok(())
    }
}

/// The number that orders the work of one of a graph's own streams. Those of other streams begin otherwise.
fn own_lane(exec: Handle<Exec>, stream: u64) -> Lane {
    let number = exec.number().wrapping_add((stream + 1) << 48);
    (number, Kind::NonBlocking)
}

fn launch(exec: Handle<Exec>, stream: Handle<Stream>) -> Result<(), Status> {
    let mut state = lock()?;
    let context = state.working_stream(stream)?;
    if state.capture_launch(exec, stream)? {
        return Ok(());
    }
    let lane = state.lane(stream)?;
    let found = state.execs.get(exec)?;
    let (steps, done) = (found.steps.clone(), found.done.clone());
    state.timeline.wait(lane.0, lane.1, &done);
    state.free_allocated(exec, lane)?;
    let start = state.timeline.record(lane.0, lane.1);
    drop(state);
    let mut clocks: Vec<Clock> = Vec::with_capacity(steps.len());
    for step in &*steps {
        let mut state = lock()?;
        // A kernel that failed ends all; who asks next is told.
        if state.check_health(context).is_err() {
            return Ok(());
        }
        let own = own_lane(exec, step.stream);
        state.timeline.wait(own.0, own.1, &start);
        for before in &step.after {
            state.timeline.wait(own.0, own.1, &clocks[*before]);
        }
        perform(state, step.call, own, &step.work)?;
        clocks.push(lock()?.timeline.record(own.0, own.1));
    }
    let mut state = lock()?;
    for clock in &clocks {
        state.timeline.wait(lane.0, lane.1, clock);
    }
    let done = state.timeline.record(lane.0, lane.1);
    state.execs.get_mut(exec)?.done = done;
    Ok(())
}

/// Lists handles as the queries of graphs do: their number alone where there is no room for them.
fn list<const N: usize>(
    found: &[[Handle<Node>; N]],
    out: [Out<Handle<Node>>; N],
    count: Out<usize>,
) -> Result<(), Status> {
    let count = count.required()?;
    if !out[0].is_null() {
        let room = count.get()?;
        for (column, out) in out.into_iter().enumerate() {
            let handles = found.iter().map(|row| row[column]);
            // What is left of the room is set to null.
            let padded: Vec<_> = handles
                .chain(std::iter::repeat(Handle::NULL))
                .take(room)
                .collect();
            out.set_all(&padded)?;
        }
        return count.set(room.min(found.len()));
    }
    count.set(found.len())
}

impl State {
    fn edges(&self, graph: Handle<Graph>) -> Result<Vec<[Handle<Node>; 2]>, Status> {
        let mut edges = Vec::new();
        for &node in &self.graphs.get(graph)?.nodes {
            edges.extend(
                self.nodes
                    .get(node)?
                    .after
                    .iter()
                    .map(|&before| [before, node]),
            );
        }
        Ok(edges)
    }

    fn before(&self, node: Handle<Node>) -> Result<Vec<[Handle<Node>; 1]>, Status> {
        Ok(self
            .nodes
            .get(node)?
            .after
            .iter()
            .map(|&node| [node])
            .collect())
    }

    fn behind(&self, node: Handle<Node>) -> Result<Vec<[Handle<Node>; 1]>, Status> {
        let edges = self.edges(self.nodes.get(node)?.graph)?;
        let edges = edges.into_iter().filter(|[from, _]| *from == node);
        Ok(edges.map(|[_, to]| [to]).collect())
    }

    /// Whether a graph has the shape of one that can be launched, whose steps it may then replace.
    fn update(&mut self, exec: Handle<Exec>, graph: Handle<Graph>) -> Result<(), Update> {
        let steps = self.steps(graph).map_err(|_| Update::Failed)?;
        let exec = self.execs.get_mut(exec).map_err(|_| Update::Failed)?;
        if steps.len() != exec.steps.len() {
            return Err(Update::TopologyChanged);
        }
        for (new, old) in steps.iter().zip(&*exec.steps) {
            if new.after != old.after {
                return Err(Update::TopologyChanged);
            }
            if kind(&new.work) != kind(&old.work) {
                return Err(Update::KindChanged);
            }
        }
        exec.steps = steps;
        Ok(())
    }
}

/// Why a graph cannot be updated (`CUgraphExecUpdateResult`).
#[derive(Clone, Copy)]
enum Update {
    Failed = 1,
    TopologyChanged = 2,
    KindChanged = 3,
}

/// `CUgraphExecUpdateResultInfo`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct UpdateInfo {
    result: u32,
    node: Handle<Node>,
    from: Handle<Node>,
}

/// `CUDA_GRAPH_INSTANTIATE_PARAMS`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct InstantiateParams {
    flags: u64,
    upload: Handle<Stream>,
    wrong: Handle<Node>,
    result: u32,
}

/// The result with its number.
fn update(exec: Handle<Exec>, graph: Handle<Graph>) -> Result<(u32, Result<(), Status>), Status> {
    let mut state = lock()?;
    state.execs.get(exec)?;
    state.graphs.get(graph)?;
    Ok(match state.update(exec, graph) {
        Ok(()) => (0, Ok(())),
        Err(why) => (why as u32, Err(Status::GRAPH_EXEC_UPDATE_FAILURE)),
    })
}

driver_api! {
    fn cuGraphDestroy(graph: Handle<Graph>) {
        let mut state = lock()?;
        state.graphs.get(graph)?;
        state.destroy_graph(graph);
        Ok(())
    }

    fn cuGraphInstantiate_v2(
        out: Out<Handle<Exec>>,
        graph: Handle<Graph>,
        wrong: Out<Handle<Node>>,
        _log: Out<u8>,
        _room: usize,
    ) {
        let out = out.required()?;
        wrong.set_if_wanted(Handle::NULL);
        let exec = lock()?.instantiate(graph, 0)?;
        out.set(exec)
    }

    fn cuGraphInstantiateWithFlags(out: Out<Handle<Exec>>, graph: Handle<Graph>, flags: u64) {
        let out = out.required()?;
        let exec = lock()?.instantiate(graph, flags)?;
        out.set(exec)
    }

    fn cuGraphInstantiateWithParams(
        out: Out<Handle<Exec>>,
        graph: Handle<Graph>,
        params: Out<InstantiateParams>,
    ) {
        let out = out.required()?;
        let mut given = params.get()?;
        let exec = lock()?.instantiate(graph, given.flags);
        given.wrong = Handle::NULL;
        given.result = u32::from(exec.is_err());
        params.set(given)?;
        out.set(exec?)
    }

    fn cuGraphExecDestroy(exec: Handle<Exec>) {
        let mut state = lock()?;
        let exec_steps = state.execs.remove(exec)?.steps;
        for step in &*exec_steps {
            state.timeline.forget(own_lane(exec, step.stream).0);
        }
        Ok(())
    }

    fn cuGraphExecGetFlags(exec: Handle<Exec>, flags: Out<u64>) {
        let found = lock()?.execs.get(exec)?.flags;
        flags.set(found)
    }

    fn cuGraphExecUpdate(
        exec: Handle<Exec>,
        graph: Handle<Graph>,
        wrong: Out<Handle<Node>>,
        result: Out<u32>,
    ) {
        wrong.set_if_wanted(Handle::NULL);
        let (number, updated) = update(exec, graph)?;
        result.set_if_wanted(number);
        updated
    }

    fn cuGraphExecUpdate_v2(exec: Handle<Exec>, graph: Handle<Graph>, info: Out<UpdateInfo>) {
        let (result, updated) = update(exec, graph)?;
        info.set_if_wanted(UpdateInfo { result, node: Handle::NULL, from: Handle::NULL });
        updated
    }

    fn cuGraphUpload(exec: Handle<Exec>, stream: Handle<Stream>) {
        let state = lock()?;
        state.execs.get(exec)?;
        state.working_stream(stream).map(|_| ())
    }

    fn cuGraphLaunch(exec: Handle<Exec>, stream: Handle<Stream>) {
        launch(exec, stream)
    }

    fn cuGraphGetNodes(graph: Handle<Graph>, nodes: Out<Handle<Node>>, count: Out<usize>) {
        let state = lock()?;
        let found: Vec<_> = state.graphs.get(graph)?.nodes.iter().map(|&node| [node]).collect();
        list(&found, [nodes], count)
    }

    fn cuGraphGetRootNodes(graph: Handle<Graph>, nodes: Out<Handle<Node>>, count: Out<usize>) {
        let state = lock()?;
        let is_root = |&&node: &&Handle<Node>| state.nodes.get(node).is_ok_and(|node| node.after.is_empty());
        let nodes_of = &state.graphs.get(graph)?.nodes;
        let found: Vec<_> = nodes_of.iter().filter(is_root).map(|&node| [node]).collect();
        list(&found, [nodes], count)
    }

    fn cuGraphGetEdges(graph: Handle<Graph>, from: Out<Handle<Node>>, to: Out<Handle<Node>>, count: Out<usize>) {
        list(&lock()?.edges(graph)?, [from, to], count)
    }

    fn cuGraphGetEdges_v2(
        graph: Handle<Graph>,
        from: Out<Handle<Node>>,
        to: Out<Handle<Node>>,
        data: Out<u64>,
        count: Out<usize>,
    ) {
        plain_edges(data, from, count)?;
        list(&lock()?.edges(graph)?, [from, to], count)
    }

    fn cuGraphNodeGetType(node: Handle<Node>, out: Out<u32>) {
        let found = kind(&lock()?.nodes.get(node)?.work);
        out.set(found)
    }

    fn cuGraphNodeGetDependencies(node: Handle<Node>, nodes: Out<Handle<Node>>, count: Out<usize>) {
        list(&lock()?.before(node)?, [nodes], count)
    }

    fn cuGraphNodeGetDependencies_v2(
        node: Handle<Node>,
        nodes: Out<Handle<Node>>,
        data: Out<u64>,
        count: Out<usize>,
    ) {
        plain_edges(data, nodes, count)?;
        list(&lock()?.before(node)?, [nodes], count)
    }

    fn cuGraphNodeGetDependentNodes(node: Handle<Node>, nodes: Out<Handle<Node>>, count: Out<usize>) {
        list(&lock()?.behind(node)?, [nodes], count)
    }

    fn cuGraphNodeGetDependentNodes_v2(
        node: Handle<Node>,
        nodes: Out<Handle<Node>>,
        data: Out<u64>,
        count: Out<usize>,
    ) {
        plain_edges(data, nodes, count)?;
        list(&lock()?.behind(node)?, [nodes], count)
    }
}

/// Says of as many edges as there is room for that they are plain ones.
fn plain_edges(data: Out<u64>, nodes: Out<Handle<Node>>, count: Out<usize>) -> Result<(), Status> {
    if data.is_null() || nodes.is_null() {
        return Ok(());
    }
    data.set_all(&vec![0; count.get()?])
}
