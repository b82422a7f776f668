//! Who watches the cells.

use crate::graph::Cell;
use crate::process::CellProcess;
use crate::record::CellState;

/// Is told of cells as they start and end, and shows it to people.
pub trait CellObserver {
    /// These cells are to be run, but for those that are done, as many at a time as `slots`. `work` is that of a cell,
    /// comparable within its kind.
    fn begin(&mut self, cells: &[Cell], states: &[CellState], slots: usize, work: &dyn Fn(&Cell) -> f64);
    /// A cell has ended, or was given up.
    fn ended(&mut self, cell: &Cell, state: &CellState);
    /// The cells that run now, many times a second.
    fn tick(&mut self, running: &[(&Cell, &CellProcess)]);
    /// No cell is left.
    fn end(&mut self);
}

/// An observer that shows nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl CellObserver for Silent {
    fn begin(&mut self, _: &[Cell], _: &[CellState], _: usize, _: &dyn Fn(&Cell) -> f64) {}
    fn ended(&mut self, _: &Cell, _: &CellState) {}
    fn tick(&mut self, _: &[(&Cell, &CellProcess)]) {}
    fn end(&mut self) {}
}
