//! What a run really uses, and where that departs from its protocol.

use serde_json::Value;

use super::{BASE_BATCH, TransferConfig};

/// Settings that change how a run is done or watched, not what it is worth.
const SKIPPED: [&str; 11] = [
    "seed",
    "subset_seed",
    "eval_batch_size",
    "eval_every",
    "keep_best",
    "log_every",
    "checkpoint_every",
    "threads",
    "prefetch",
    "data",
    "model.num_classes",
];

impl TransferConfig {
    /// Where this config departs from its protocol, one line a value, with what linear scaling gives for another batch
    /// size and how long the run is beside the protocol's.
    ///
    /// Compared is what takes effect: the scaled learning rate, and milestones as iterations.
    pub fn differences(&self) -> Vec<String> {
        let protocol = self.protocol.config();
        let mut lines = Vec::new();
        compare("", &effective(self), &effective(&protocol), &mut lines);
        let scaled = protocol.lr() * self.batch_size as f64 / BASE_BATCH as f64;
        if self.batch_size != protocol.batch_size && (self.lr() / scaled - 1.0).abs() > 1e-9 {
            lines.push(format!(
                "solver.lr = {} where linear scaling to this batch size gives {scaled}; solver.scale_lr = true does so",
                self.lr()
            ));
        }
        let [ours, theirs] = [self, &protocol].map(|c| c.iterations * c.batch_size as u64);
        if ours != theirs {
            let same = theirs.div_ceil(self.batch_size as u64);
            lines
                .push(format!("{ours} images in all (protocol: {theirs}, which are {same} iterations here)"));
        }
        lines
    }

    /// Learning rate, batch, length and schedule as they take effect on so many training images, for the log.
    pub fn effective(&self, images: usize) -> String {
        let schedule = self.schedule();
        let lr = match self.solver.scale_lr {
            true => format!("{} ({} x {}/{BASE_BATCH})", self.lr(), self.solver.lr, self.batch_size),
            false => self.lr().to_string(),
        };
        let shown = self.iterations * self.batch_size as u64;
        let warm_up = match schedule.warmup_steps {
            0 => "no warm-up".to_string(),
            steps => format!("warm-up {steps} iterations from {:.3e}", schedule.lr(0)),
        };
        format!(
            "lr {lr}, batch {}, {images} images an epoch, {} iterations = {shown} images = {:.2} epochs, {warm_up}, \
             milestones {:?} (x {})",
            self.batch_size,
            self.iterations,
            shown as f64 / images as f64,
            schedule.milestones,
            schedule.gamma
        )
    }
}

/// The config as JSON with the learning rate and the milestones that take effect.
fn effective(config: &TransferConfig) -> Value {
    let mut value = serde_json::to_value(config).unwrap_or(Value::Null);
    if let Some(solver) = value.get_mut("solver").and_then(Value::as_object_mut) {
        solver.insert("lr".into(), config.lr().into());
        solver.insert("milestones".into(), config.schedule().milestones.into());
        solver.remove("scale_lr");
    }
    value
}

/// Lists the leaves in which two values of one form differ.
fn compare(path: &str, ours: &Value, theirs: &Value, lines: &mut Vec<String>) {
    if SKIPPED.contains(&path) || ours == theirs {
        return;
    }
    match (ours, theirs) {
        (Value::Object(ours), Value::Object(theirs)) => {
            for (key, value) in ours {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                compare(&path, value, theirs.get(key).unwrap_or(&Value::Null), lines);
            }
        }
        (_, Value::Null) => lines.push(format!("{path} = {ours} (protocol: not set)")),
        _ => lines.push(format!("{path} = {ours} (protocol: {theirs})")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Protocol;

    fn read(text: &str) -> TransferConfig {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn differences_name_key_value_and_protocol() {
        let config = read("batch_size = 4\n[solver]\nlr = 0.01\n[model]\nfpn_norm = true\nnum_classes = 3");
        let lines = config.differences();
        assert!(lines.contains(&"batch_size = 4 (protocol: 16)".to_string()), "{lines:?}");
        assert!(lines.contains(&"solver.lr = 0.01 (protocol: 0.02)".to_string()));
        assert!(lines[2].contains("gives 0.005;"), "{lines:?}");
        assert_eq!(lines[3], "360000 images in all (protocol: 1440000, which are 360000 iterations here)");
        assert_eq!(lines.len(), 4);
    }

    #[test]
    fn what_takes_effect_is_compared_not_how_it_is_written() {
        let scaled = read(
            "batch_size = 4\niterations = 360000\n[solver]\nscale_lr = true\nmilestones = [240000, 320000]\n\
             [model]\nfpn_norm = true",
        );
        assert_eq!(scaled.lr(), 0.005);
        let lines = scaled.differences();
        assert_eq!(lines.len(), 4, "{lines:?}");
        assert!(lines.contains(&"solver.lr = 0.005 (protocol: 0.02)".to_string()), "{lines:?}");
        let text = scaled.effective(1000);
        assert!(text.starts_with("lr 0.005 (0.02 x 4/16), batch 4, 1000 images an epoch"), "{text}");
        assert!(text.contains("= 1440000 images = 1440.00 epochs"), "{text}");
        assert!(text.contains("warm-up 1000 iterations from 5.000e-6"), "{text}");
        let shares = read("[solver]\nmilestones = [0.66666667, 0.88888889]\n[model]\nfpn_norm = true");
        assert_eq!(shares.differences(), [""; 0]);
        let lines = read("[model]\narchitecture = \"retinanet\"\nfpn_norm = true").differences();
        assert!(
            lines.contains(&"model.architecture = \"retinanet\" (protocol: not set)".into()),
            "{lines:?}"
        );
    }

    /// Every leaf of a config by its path.
    fn leaves(path: &str, value: &Value, found: &mut Vec<(String, Value)>) {
        match value {
            Value::Object(map) => {
                let join = |key: &String| if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                map.iter().for_each(|(key, value)| leaves(&join(key), value, found));
            }
            leaf => found.push((path.to_string(), leaf.clone())),
        }
    }

    /// Another value of the same type that the config accepts.
    fn other(path: &str, value: &Value) -> Value {
        match (path, value) {
            ("interpolation", _) => "bicubic".into(),
            ("model.backbone.arch", _) => "resnet18".into(),
            ("model.variant", _) => "torchvision".into(),
            ("model.backbone.norm", _) => "frozen_batch_norm".into(),
            ("solver.milestones", _) => serde_json::json!([7]),
            (_, Value::Bool(flag)) => (!flag).into(),
            (_, Value::Number(number)) if number.is_u64() => (number.as_u64().unwrap() + 1).into(),
            (_, Value::Number(number)) => (number.as_f64().unwrap() * 0.5).into(),
            (_, Value::Array(list)) => list.iter().map(|item| other("", item)).collect(),
            other => panic!("{other:?}"),
        }
    }

    fn set(value: &mut Value, path: &str, new: Value) {
        let pointer = format!("/{}", path.replace('.', "/"));
        *value.pointer_mut(&pointer).unwrap() = new;
    }

    #[test]
    fn every_setting_that_matters_is_compared_in_every_protocol() {
        for protocol in [Protocol::Coco1x, Protocol::Coco2x, Protocol::Voc] {
            let whole = serde_json::to_value(protocol.config()).unwrap();
            let mut found = Vec::new();
            leaves("", &whole, &mut found);
            found.retain(|(path, _)| {
                !path.starts_with("data") && path != "protocol" && path != "solver.scale_lr"
            });
            let mut compared = 0;
            for (path, value) in found {
                let mut changed = whole.clone();
                set(&mut changed, &path, other(&path, &value));
                let config: TransferConfig = serde_json::from_value(changed).unwrap();
                let named = config.differences().iter().any(|line| line.starts_with(&format!("{path} = ")));
                assert_eq!(named, !SKIPPED.contains(&path.as_str()), "{path}: {:?}", config.differences());
                compared += usize::from(named);
            }
            assert!(compared > 40, "{compared}");
        }
    }
}
