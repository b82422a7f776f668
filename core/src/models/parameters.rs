//! Reading and writing a module's tensors by their path, which equals PyTorch's state-dict key.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Tensor, TensorData};

/// Host copies of tensors by path, for example `layer1.0.conv1.weight`.
pub type TensorMap = BTreeMap<String, TensorData>;

/// Where a visitor is in a module. A variant of an enum adds nothing: its tensors' paths are those of the module in it.
#[derive(Clone, Debug, Default)]
pub struct ModulePath(Vec<Option<String>>);

impl ModulePath {
    /// What a visitor's or mapper's `enter_module` is told.
    pub fn enter(&mut self, name: &str, container: &str) {
        self.0.push((!container.starts_with("Enum:")).then(|| name.to_owned()));
    }

    /// What its `exit_module` is told.
    pub fn exit(&mut self) {
        self.0.pop();
    }
}

/// The segments, joined by dots.
impl std::fmt::Display for ModulePath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, segment) in self.0.iter().flatten().enumerate() {
            if index > 0 {
                f.write_str(".")?;
            }
            f.write_str(segment)?;
        }
        Ok(())
    }
}

/// What [`load`] did with each tensor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// Paths that were set.
    pub loaded: Vec<String>,
    /// Paths of the module that the map does not have; they keep their values.
    pub missing: Vec<String>,
    /// Keys of the map that the module does not have.
    pub unused: Vec<String>,
    /// Paths present on both sides with different shapes: path, shape in the module, shape in the map.
    pub mismatched: Vec<(String, Vec<usize>, Vec<usize>)>,
}

impl LoadReport {
    /// Whether every tensor found its partner.
    pub fn is_complete(&self) -> bool {
        self.missing.is_empty() && self.unused.is_empty() && self.mismatched.is_empty()
    }
}

/// Copies every float tensor of a module to the host: parameters and running statistics.
pub fn collect<M: Module>(module: &M) -> TensorMap {
    struct Collect {
        path: ModulePath,
        tensors: TensorMap,
    }
    impl ModuleVisitor for Collect {
        fn enter_module(&mut self, name: &str, container_type: &str) {
            self.path.enter(name, container_type);
        }
        fn exit_module(&mut self, _name: &str, _container_type: &str) {
            self.path.exit();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.tensors.insert(self.path.to_string(), param.val().detach().into_data());
        }
    }
    let mut visitor = Collect { path: ModulePath::default(), tensors: TensorMap::new() };
    module.visit(&mut visitor);
    visitor.tensors
}

/// Sets a module's tensors from a map; what does not fit is left as it is and reported.
pub fn load<M: Module>(module: M, tensors: &TensorMap) -> (M, LoadReport) {
    struct Load<'a> {
        path: ModulePath,
        tensors: &'a TensorMap,
        report: LoadReport,
    }
    impl ModuleMapper for Load<'_> {
        fn enter_module(&mut self, name: &str, container_type: &str) {
            self.path.enter(name, container_type);
        }
        fn exit_module(&mut self, _name: &str, _container_type: &str) {
            self.path.exit();
        }
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let path = self.path.to_string();
            let Some(data) = self.tensors.get(&path) else {
                self.report.missing.push(path);
                return param;
            };
            let expected = param.shape().to_vec();
            if expected[..] != data.shape()[..] {
                self.report.mismatched.push((path, expected, data.shape().to_vec()));
                return param;
            }
            self.report.loaded.push(path);
            let requires_grad = param.is_require_grad();
            param.map(|tensor| {
                let device = tensor.device();
                Tensor::from_data(data.clone(), &device).set_require_grad(requires_grad)
            })
        }
    }
    let mut mapper = Load { path: ModulePath::default(), tensors, report: LoadReport::default() };
    let module = module.map(&mut mapper);
    let mut report = mapper.report;
    let seen: std::collections::BTreeSet<&String> =
        report.loaded.iter().chain(report.mismatched.iter().map(|(path, ..)| path)).collect();
    report.unused = tensors.keys().filter(|key| !seen.contains(key)).cloned().collect();
    (module, report)
}
