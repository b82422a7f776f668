//! Short names for the operators that a detector's decisions are made of.

use crate::graph::{Attribute, Graph, Value};

/// Where several values of one graph are computed: its nodes are called `PATH.OPERATOR`, numbered where an operator
/// comes twice.
pub(crate) struct Part<'g> {
    pub graph: &'g mut Graph,
    path: String,
}

impl<'g> Part<'g> {
    pub fn new(graph: &'g mut Graph, path: impl Into<String>) -> Self {
        Self { graph, path: path.into() }
    }

    pub fn path(&self) -> &str {
        &self.path
    }

    /// A part within this one.
    pub fn part(&mut self, name: &str) -> Part<'_> {
        let path = format!("{}.{name}", self.path);
        Part { graph: &mut *self.graph, path }
    }

    pub fn op(&mut self, operator: &str, inputs: &[&Value]) -> Value {
        self.op_with(operator, inputs, vec![])
    }

    pub fn op_with(
        &mut self,
        operator: &str,
        inputs: &[&Value],
        attributes: Vec<(&str, Attribute)>,
    ) -> Value {
        let name = self.graph.unused(&format!("{}.{operator}", self.path));
        self.graph.node(&name, operator, inputs, attributes)
    }

    /// A constant vector.
    pub fn ints(&mut self, values: &[i64]) -> Value {
        self.graph.ints(values, &[values.len()])
    }

    /// A constant without dimensions.
    pub fn int(&mut self, value: i64) -> Value {
        self.graph.ints(&[value], &[])
    }

    /// A constant without dimensions.
    pub fn float(&mut self, value: f32) -> Value {
        self.graph.floats(&[value], &[])
    }

    /// Rows, or other entries along `axis`, by number.
    pub fn gather(&mut self, data: &Value, indices: &Value, axis: i64) -> Value {
        self.op_with("Gather", &[data, indices], vec![("axis", Attribute::Int(axis))])
    }

    /// Entries by their full coordinates; with `batch_dims` 1 the first dimension of both goes together.
    pub fn gather_nd(&mut self, data: &Value, indices: &Value, batch_dims: i64) -> Value {
        self.op_with("GatherND", &[data, indices], vec![("batch_dims", Attribute::Int(batch_dims))])
    }

    /// Rows of `data`, `[N, P, ...]`, by `indices`, `[N, k]`, of each n by itself.
    pub fn gather_rows(&mut self, data: &Value, indices: &Value) -> Value {
        let indices = self.unsqueeze(indices, &[-1]);
        self.gather_nd(data, &indices, 1)
    }

    pub fn unsqueeze(&mut self, value: &Value, axes: &[i64]) -> Value {
        let axes = self.ints(axes);
        self.op("Unsqueeze", &[value, &axes])
    }

    /// To a shape that is known now; 0 keeps a dimension, -1 is what is left.
    pub fn reshape(&mut self, value: &Value, shape: &[i64]) -> Value {
        let shape = self.ints(shape);
        self.op("Reshape", &[value, &shape])
    }

    pub fn transpose(&mut self, value: &Value, order: &[i64]) -> Value {
        self.op_with("Transpose", &[value], vec![("perm", Attribute::Ints(order.to_vec()))])
    }

    pub fn concat(&mut self, values: &[Value], axis: i64) -> Value {
        let values: Vec<&Value> = values.iter().collect();
        self.op_with("Concat", &values, vec![("axis", Attribute::Int(axis))])
    }

    /// `start..end` of one axis.
    pub fn slice(&mut self, value: &Value, axis: i64, start: i64, end: i64) -> Value {
        let [start, end, axis] = [start, end, axis].map(|bound| self.ints(&[bound]));
        self.op("Slice", &[value, &start, &end, &axis])
    }

    /// One dimension's size, as a vector of one.
    pub fn size(&mut self, value: &Value, axis: i64) -> Value {
        let shape = self.op("Shape", &[value]);
        let axis = self.ints(&[axis]);
        self.gather(&shape, &axis, 0)
    }

    pub fn cast_to_float(&mut self, value: &Value) -> Value {
        self.op_with("Cast", &[value], vec![("to", Attribute::Int(crate::graph::FLOAT.into()))])
    }

    pub fn cast_to_int(&mut self, value: &Value) -> Value {
        self.op_with("Cast", &[value], vec![("to", Attribute::Int(crate::graph::INT64.into()))])
    }

    /// A number in every place of a shape that is known when the model runs.
    pub fn filled(&mut self, value: f32, shape: &Value) -> Value {
        let value = self.float(value);
        self.op("Expand", &[&value, shape])
    }

    /// The `count` largest values of the last axis, or all where it has fewer, and their indices: largest first, the
    /// first of equal ones first.
    pub fn largest(&mut self, values: &Value, count: usize) -> [Value; 2] {
        let available = self.size(values, 1);
        let count = self.ints(&[count as i64]);
        let count = self.op("Min", &[&available, &count]);
        let name = self.graph.unused(&format!("{}.TopK", self.path));
        let attributes = vec![("axis", Attribute::Int(1))];
        self.graph.node_with_two_outputs(&name, "TopK", &[values, &count], attributes, "indices")
    }

    /// Suppression within each row of `boxes`, `[B, R, 4]`, and each class of `scores`, `[B, C, R]`: rows
    /// `(b, r)` of what is kept, `[M, 2]`. Scores at or below `lowest` do not take part.
    pub fn suppress(
        &mut self,
        boxes: &Value,
        scores: &Value,
        count: usize,
        overlap: f32,
        lowest: f32,
    ) -> Value {
        let count = self.int(count as i64);
        let [overlap, lowest] = [overlap, lowest].map(|value| self.float(value));
        let kept = self.op("NonMaxSuppression", &[boxes, scores, &count, &overlap, &lowest]);
        let columns = self.ints(&[0, 2]);
        self.gather(&kept, &columns, 1)
    }

    /// `values`, `[B, R]`, at the places `kept`, `[M, 2]`, and `other` at all others.
    pub fn keep(&mut self, values: &Value, kept: &Value, other: f32) -> Value {
        let updates = self.gather_nd(values, kept, 0);
        let shape = self.op("Shape", &[values]);
        let others = self.filled(other, &shape);
        self.op("ScatterND", &[&others, kept, &updates])
    }
}
