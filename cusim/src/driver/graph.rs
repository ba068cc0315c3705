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
    pub(super) nodes: Vec<Handle<Node>>,
}

impl Object for Graph {
    const TAG: u64 = 10;
    const WRONG: Status = Status::INVALID_VALUE;
}

/// A node of a graph.
pub(crate) struct Node {
    call: &'static str,
    pub(super) work: Work,
    /// The nodes it comes after.
    pub(super) after: Vec<Handle<Node>>,
    pub(super) graph: Handle<Graph>,
}

impl Object for Node {
    const TAG: u64 = 11;
    const WRONG: Status = Status::INVALID_VALUE;
}

/// A node of a graph that can be launched.
pub(super) struct Step {
    call: &'static str,
    pub(super) work: Work,
    /// Steps it comes after, which stand before it.
    pub(super) after: Vec<usize>,
    /// Which of the graph's own streams it is in: one for each run of steps of which each follows the last.
    stream: u64,
}

/// A graph that can be launched.
pub(crate) struct Exec {
    pub(super) steps: Arc<[Step]>,
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
pub(super) fn kind(work: &Work) -> u32 {
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
    pub(super) fn steps(&self, graph: Handle<Graph>) -> Result<Arc<[Step]>, Status> {
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
    // Drivers do not make it part of a capture.
    state.check_not_captured(stream)?;
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

/// `CUDA_GRAPH_INSTANTIATE_PARAMS`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct InstantiateParams {
    flags: u64,
    upload: Handle<Stream>,
    wrong: Handle<Node>,
    result: u32,
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

    fn cuGraphUpload(exec: Handle<Exec>, stream: Handle<Stream>) {
        let state = lock()?;
        state.execs.get(exec)?;
        state.working_stream(stream).map(|_| ())
    }

    fn cuGraphLaunch(exec: Handle<Exec>, stream: Handle<Stream>) {
        launch(exec, stream)
    }
}
