//! Minimum cut of a flow network, on flat arrays.
//!
//! The algorithm is that of Boykov and Kolmogorov, "An experimental comparison of min-cut/max-flow
//! algorithms for energy minimization in vision" (2004): two search trees, grown from the source
//! and from the sink, that are kept from one augmentation to the next. On the shallow graphs of
//! tasks, whose paths are short, it is close to linear.

use std::cell::Cell;
use std::collections::VecDeque;

/// No node, no arc.
const NONE: u32 = u32::MAX;
/// The parent of a node that hangs on a terminal itself.
const TERMINAL: u32 = u32::MAX - 1;
/// The parent of a node whose way to its terminal is saturated.
const ORPHAN: u32 = u32::MAX - 2;

/// On which side of the cut a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Source,
    Sink,
    /// There are minimum cuts with it on either side.
    Either,
}

struct Node {
    /// What is left of the capacity from the source (above 0) or to the sink (below 0).
    terminal: i64,
    /// The first of the arcs that leave it.
    first: u32,
    /// The arc to its parent in a search tree.
    parent: u32,
    /// When its distance was last known to be right.
    stamp: u32,
    /// Arcs to its terminal.
    distance: u32,
    is_sink: bool,
    is_active: bool,
}

/// Half of an arc: the other direction is the arc whose number differs in the last bit.
struct Arc {
    head: u32,
    /// The next arc that leaves the same node.
    next: u32,
    left: i64,
}

/// Steps that several cuts may take together.
pub(crate) struct Budget(Cell<u64>);

impl Budget {
    pub(crate) fn new(steps: u64) -> Self {
        Self(Cell::new(steps))
    }

    /// Takes so many steps; `None` when there are not as many left.
    pub(crate) fn take(&self, steps: u64) -> Option<()> {
        let left = self.0.get().checked_sub(steps);
        self.0.set(left.unwrap_or(0));
        left.map(drop)
    }
}

/// A network with a source and a sink, which are no nodes.
pub(crate) struct Network {
    nodes: Vec<Node>,
    arcs: Vec<Arc>,
    active: VecDeque<u32>,
    orphans: VecDeque<u32>,
    time: u32,
    flow: i64,
    steps: u64,
}

impl Network {
    pub(crate) fn new(nodes: usize, arcs: usize) -> Self {
        Self {
            nodes: Vec::with_capacity(nodes),
            arcs: Vec::with_capacity(2 * arcs),
            active: VecDeque::new(),
            orphans: VecDeque::new(),
            time: 0,
            flow: 0,
            steps: 0,
        }
    }

    /// Adds a node and returns its number.
    pub(crate) fn node(&mut self) -> u32 {
        let number = u32::try_from(self.nodes.len()).expect("nodes are fewer than u32 counts");
        self.nodes.push(Node {
            terminal: 0,
            first: NONE,
            parent: NONE,
            stamp: 0,
            distance: 0,
            is_sink: false,
            is_active: false,
        });
        number
    }

    /// Adds `cost` to every cut with `node` on the sink's side.
    pub(crate) fn cost_at_sink(&mut self, node: u32, cost: i64) {
        let left = self.nodes[node as usize].terminal;
        if left < 0 {
            self.flow += cost.min(-left);
        }
        self.nodes[node as usize].terminal = left + cost;
    }

    /// Adds `cost` to every cut with `node` on the source's side.
    pub(crate) fn cost_at_source(&mut self, node: u32, cost: i64) {
        let left = self.nodes[node as usize].terminal;
        if left > 0 {
            self.flow += cost.min(left);
        }
        self.nodes[node as usize].terminal = left - cost;
    }

    /// Adds `forward` to every cut with `from` on the source's and `to` on the sink's side, and
    /// `backward` to those the other way round.
    pub(crate) fn arc(&mut self, from: u32, to: u32, forward: i64, backward: i64) {
        for (tail, head, left) in [(from, to, forward), (to, from, backward)] {
            let number = u32::try_from(self.arcs.len()).expect("arcs are fewer than u32 counts");
            let first = std::mem::replace(&mut self.nodes[tail as usize].first, number);
            self.arcs.push(Arc {
                head,
                next: first,
                left,
            });
        }
    }

    /// Computes a minimum cut and returns its cost, or `None` when that takes more than `budget`
    /// steps along ways to the terminals; [`Network::side`] is then a guess, and [`Network::flow`]
    /// what no cut is below.
    pub(crate) fn solve(&mut self, budget: &Budget) -> Option<i64> {
        for number in 0..self.nodes.len() {
            let node = &mut self.nodes[number];
            if node.terminal != 0 {
                node.is_sink = node.terminal < 0;
                node.parent = TERMINAL;
                node.distance = 1;
                self.activate(u32::try_from(number).expect("counted when it was added"));
            }
        }
        while let Some(&number) = self.active.front() {
            if self.nodes[number as usize].parent == NONE {
                self.deactivate();
                continue;
            }
            let Some(bridge) = self.grow(number) else {
                self.deactivate();
                continue;
            };
            self.time += 1;
            self.augment(bridge);
            while let Some(orphan) = self.orphans.pop_front() {
                self.adopt(orphan);
            }
            budget.take(std::mem::take(&mut self.steps))?;
        }
        Some(self.flow)
    }

    /// The flow found so far. No cut costs less.
    pub(crate) fn flow(&self) -> i64 {
        self.flow
    }

    /// The side of a node, after [`Network::solve`].
    pub(crate) fn side(&self, node: u32) -> Side {
        let node = &self.nodes[node as usize];
        match (node.parent, node.is_sink) {
            (NONE, _) => Side::Either,
            (_, false) => Side::Source,
            (_, true) => Side::Sink,
        }
    }

    /// The number of nodes.
    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// The nodes at the other ends of a node's arcs.
    pub(crate) fn neighbours(&self, node: u32) -> impl Iterator<Item = u32> {
        let mut arc = self.nodes[node as usize].first;
        std::iter::from_fn(move || {
            let half = self.arcs.get(arc as usize)?;
            arc = half.next;
            Some(half.head)
        })
    }

    fn activate(&mut self, number: u32) {
        let node = &mut self.nodes[number as usize];
        if !node.is_active {
            node.is_active = true;
            self.active.push_back(number);
        }
    }

    fn deactivate(&mut self) {
        if let Some(number) = self.active.pop_front() {
            self.nodes[number as usize].is_active = false;
        }
    }

    /// What is left of an arc in the direction of the flow in a tree: away from the source, or
    /// towards the sink.
    fn left(&self, arc: u32, is_sink: bool) -> i64 {
        self.arcs[(arc ^ u32::from(is_sink)) as usize].left
    }

    /// Takes the free neighbours of a node into its tree; gives an arc to the other tree, from its
    /// source side to its sink side, if there is one.
    fn grow(&mut self, number: u32) -> Option<u32> {
        let node = &self.nodes[number as usize];
        let (is_sink, stamp, distance) = (node.is_sink, node.stamp, node.distance);
        let mut arc = node.first;
        while arc != NONE {
            let Arc { head, next, .. } = self.arcs[arc as usize];
            if self.left(arc, is_sink) > 0 {
                let other = &mut self.nodes[head as usize];
                if other.parent == NONE {
                    other.is_sink = is_sink;
                    other.parent = arc ^ 1;
                    other.stamp = stamp;
                    other.distance = distance + 1;
                    self.activate(head);
                } else if other.is_sink != is_sink {
                    return Some(arc ^ u32::from(is_sink));
                } else if other.stamp <= stamp && other.distance > distance {
                    // A shorter way to the terminal.
                    other.parent = arc ^ 1;
                    other.stamp = stamp;
                    other.distance = distance + 1;
                }
            }
            arc = next;
        }
        None
    }

    /// Pushes what fits along the way through `bridge`.
    fn augment(&mut self, bridge: u32) {
        let ends = [
            (self.arcs[(bridge ^ 1) as usize].head, false),
            (self.arcs[bridge as usize].head, true),
        ];
        let mut amount = self.arcs[bridge as usize].left;
        for (mut number, is_sink) in ends {
            while self.nodes[number as usize].parent != TERMINAL {
                let parent = self.nodes[number as usize].parent;
                amount = amount.min(self.left(parent ^ 1, is_sink));
                number = self.arcs[parent as usize].head;
            }
            amount = amount.min(self.nodes[number as usize].terminal.abs());
        }
        self.push(bridge, amount);
        for (mut number, is_sink) in ends {
            while self.nodes[number as usize].parent != TERMINAL {
                let parent = self.nodes[number as usize].parent;
                let arc = parent ^ 1 ^ u32::from(is_sink);
                self.push(arc, amount);
                if self.arcs[arc as usize].left == 0 {
                    self.orphan(number);
                }
                number = self.arcs[parent as usize].head;
            }
            let root = &mut self.nodes[number as usize];
            root.terminal -= if is_sink { -amount } else { amount };
            if root.terminal == 0 {
                self.orphan(number);
            }
        }
        self.flow += amount;
    }

    fn push(&mut self, arc: u32, amount: i64) {
        self.steps += 1;
        self.arcs[arc as usize].left -= amount;
        self.arcs[(arc ^ 1) as usize].left += amount;
    }

    fn orphan(&mut self, number: u32) {
        self.nodes[number as usize].parent = ORPHAN;
        self.orphans.push_front(number);
    }

    /// Finds a new parent for a node, as near to its terminal as possible; else sets it, and then
    /// its children, free.
    fn adopt(&mut self, number: u32) {
        let is_sink = self.nodes[number as usize].is_sink;
        let (mut best, mut nearest) = (NONE, u32::MAX);
        let mut arc = self.nodes[number as usize].first;
        while arc != NONE {
            let Arc { head, next, .. } = self.arcs[arc as usize];
            if self.left(arc ^ 1, is_sink) > 0 && self.is_in_tree(head, is_sink) {
                let distance = self.distance_to_terminal(head);
                if distance < nearest {
                    (best, nearest) = (arc, distance);
                }
                if distance != u32::MAX {
                    self.remember(head, distance);
                }
            }
            arc = next;
        }
        if best == NONE {
            self.release(number);
        } else {
            let node = &mut self.nodes[number as usize];
            node.parent = best;
            node.stamp = self.time;
            node.distance = nearest + 1;
        }
    }

    fn is_in_tree(&self, number: u32, is_sink: bool) -> bool {
        let node = &self.nodes[number as usize];
        node.is_sink == is_sink && node.parent != NONE
    }

    /// Counts the arcs from a node to its terminal; `u32::MAX` when an orphan is on the way.
    fn distance_to_terminal(&mut self, mut number: u32) -> u32 {
        let mut distance = 0;
        loop {
            self.steps += 1;
            let node = &mut self.nodes[number as usize];
            if node.stamp == self.time {
                return distance + node.distance;
            }
            distance += 1;
            match node.parent {
                TERMINAL => {
                    node.stamp = self.time;
                    node.distance = 1;
                    return distance;
                }
                ORPHAN => return u32::MAX,
                parent => number = self.arcs[parent as usize].head,
            }
        }
    }

    /// Marks the way from a node to its terminal with distances that are right.
    fn remember(&mut self, mut number: u32, mut distance: u32) {
        while self.nodes[number as usize].stamp != self.time {
            let node = &mut self.nodes[number as usize];
            node.stamp = self.time;
            node.distance = distance;
            distance -= 1;
            number = self.arcs[node.parent as usize].head;
        }
    }

    fn release(&mut self, number: u32) {
        let is_sink = self.nodes[number as usize].is_sink;
        let mut arc = self.nodes[number as usize].first;
        while arc != NONE {
            let Arc { head, next, .. } = self.arcs[arc as usize];
            if self.is_in_tree(head, is_sink) {
                if self.left(arc ^ 1, is_sink) > 0 {
                    self.activate(head);
                }
                let parent = self.nodes[head as usize].parent;
                if parent < ORPHAN && self.arcs[parent as usize].head == number {
                    self.nodes[head as usize].parent = ORPHAN;
                    self.orphans.push_back(head);
                }
            }
            arc = next;
        }
        self.nodes[number as usize].parent = NONE;
    }
}
