//! What can be asked about a graph, and whether one can take another's place.

use super::abi::{Out, driver_api};
use super::graph::{Exec, Graph, Node, kind};
use super::handle::Handle;
use super::state::{State, lock};
use super::status::Status;

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

/// Says of as many edges as there is room for that they are plain ones.
fn plain_edges(data: Out<u64>, nodes: Out<Handle<Node>>, count: Out<usize>) -> Result<(), Status> {
    if data.is_null() || nodes.is_null() {
        return Ok(());
    }
    data.set_all(&vec![0; count.get()?])
}

driver_api! {
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
