#[path = "../../src/allocator.rs"] mod allocator;
#[global_allocator] static A: allocator::CachingAllocator = allocator::CachingAllocator::new();
mod support;
use burn::tensor::{Device, Tensor, TensorData};
use scrl_ops::*;
use std::time::Instant;
use support::noise;
fn best(name: &str, reps: usize, mut f: impl FnMut()) {
    f();
    let mut t: Vec<f64> = (0..reps).map(|_| { let s = Instant::now(); f(); s.elapsed().as_secs_f64() * 1e3 }).collect();
    t.sort_by(f64::total_cmp);
    eprintln!("{name}: min {:.2} ms median {:.2} ms", t[0], t[t.len() / 2]);
}
fn rng(seed: u64) -> impl FnMut() -> f32 {
    let mut s = seed;
    move || { s = s.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407); (s >> 40) as f32 / (1u64 << 24) as f32 }
}
fn boxes(n: usize, images: usize, w: f32, h: f32, lo: f32, hi: f32) -> Vec<f32> {
    let mut r = rng(7);
    (0..n).flat_map(|i| { let bw = w * (lo + (hi - lo) * r()); let bh = h * (lo + (hi - lo) * r()); let x = r() * (w - bw); let y = r() * (h - bh); [(i % images) as f32, x, y, x + bw, y + bh] }).collect()
}
fn roi(name: &str, shape: [usize; 4], n: usize, scale: f32, lohi: (f32, f32), out: usize, ratio: i32, aligned: bool) {
    let dev = Device::flex().autodiff();
    let f: Tensor<4> = noise(shape, 1, &dev);
    let b = boxes(n, shape[0], shape[3] as f32 / scale, shape[2] as f32 / scale, lohi.0, lohi.1);
    let b = Tensor::<2>::from_data(TensorData::new(b, [n, 5]), &dev);
    let o = RoiAlignOptions { output_size: [out, out], spatial_scale: scale, sampling_ratio: ratio, aligned };
    let fi = f.clone().inner(); let bi = b.clone().inner();
    best(&format!("roi {name} fwd"), 5, || { let _ = roi_align(fi.clone(), bi.clone(), o); });
    let f = f.require_grad();
    let g: Tensor<4> = noise([n, shape[1], out, out], 3, &Device::flex());
    best(&format!("roi {name} fwd+bwd"), 5, || {
        let out = roi_align(f.clone(), b.clone(), o);
        let grads = (out * Tensor::from_inner(g.clone())).sum().backward();
        let _ = f.grad(&grads).unwrap();
    });
    best(&format!("roi {name} (mul+sum+bwd alone)"), 5, || {
        let x: Tensor<4> = Tensor::from_inner(g.clone()).require_grad();
        let grads = (x.clone() * Tensor::from_inner(g.clone())).sum().backward();
        let _ = x.grad(&grads).unwrap();
    });
}
#[test]
fn timing() {
    roi("7x7 512 adaptive", [2, 256, 120, 160], 512, 0.25, (0.02, 0.5), 7, -1, true);
    roi("7x7 512 ratio2", [2, 256, 120, 160], 512, 0.25, (0.02, 0.5), 7, 2, false);
    roi("7x7 100 small", [2, 256, 120, 160], 100, 0.25, (0.02, 0.2), 7, -1, true);
    roi("7x7 200 p4", [2, 256, 30, 40], 200, 0.0625, (0.2, 0.6), 7, -1, true);
    roi("scrl", [16, 2048, 7, 7], 160, 1.0 / 32.0, (0.2, 0.9), 1, -1, false);
    for (lo, hi, name) in [(0.02f32, 0.05f32, "sparse"), (0.1, 0.5, "dense")] {
        let b: Vec<[f32; 4]> = boxes(2000, 1, 640.0, 480.0, lo, hi).chunks(5).map(|c| [c[1], c[2], c[3], c[4]]).collect();
        let mut r = rng(9); let s: Vec<f32> = (0..2000).map(|_| r()).collect();
        let c: Vec<usize> = (0..2000).map(|_| (r() * 80.0) as usize).collect();
        eprintln!("kept {}", nms(&b, &s, 0.7).len());
        best(&format!("nms {name}"), 50, || { std::hint::black_box(nms(&b, &s, 0.7)); });
        best(&format!("batched nms {name}"), 50, || { std::hint::black_box(batched_nms(&b, &s, &c, 0.7)); });
    }
    {
        let dev = Device::flex();
        let sizes: Vec<usize> = [vec![2048 * 512; 20], vec![512 * 512 * 9; 4], vec![2048 * 4096, 4096 * 256], vec![64; 100]].concat();
        let mk = || -> Vec<Tensor<1>> { sizes.iter().map(|n| noise([*n], 1, &dev)).collect() };
        let (mut w, g, mut b, mut t) = (mk(), mk(), mk(), mk());
        for (name, trust, m) in [("sgd", None, true), ("lars", Some(TrustRatio { coefficient: 0.001, eps: 1e-8 }), true), ("plain", None, false)] {
            let o = GradientStepOptions { lr: 0.01, momentum: 0.9, nesterov: false, weight_decay: 1e-4, trust };
            best(name, 10, || {
                let (mut nw, mut nb) = (vec![], vec![]);
                for ((w, g), b) in w.drain(..).zip(&g).zip(b.drain(..)) {
                    if m { let s = gradient_step(w, g.clone(), Some(b), o); nw.push(s.weight); nb.push(s.buffer.unwrap()); }
                    else { let s = gradient_step(w, g.clone(), None, o); nw.push(s.weight); nb.push(b); }
                }
                w = nw; b = nb;
            });
        }
        best("ema", 10, || { t = t.drain(..).zip(&w).map(|(t, w)| moving_average(t, w.clone(), 0.99)).collect(); });
    }
    let o = MaxPool2dOptions { kernel: [3, 3], stride: [2, 2], padding: [1, 1] };
    let dev = Device::flex().autodiff();
    let x: Tensor<4> = noise([16, 64, 112, 112], 1, &dev);
    let xi = x.clone().inner();
    best("pool fwd", 10, || { let _ = max_pool2d(xi.clone(), o); });
    let x = x.require_grad();
    let g: Tensor<4> = noise([16, 64, 56, 56], 3, &Device::flex());
    best("pool fwd+bwd", 10, || {
        let out = max_pool2d(x.clone(), o);
        let grads = (out * Tensor::from_inner(g.clone())).sum().backward();
        let _ = x.grad(&grads).unwrap();
    });
    best("pool (mul+sum+bwd alone)", 10, || {
        let x: Tensor<4> = Tensor::from_inner(g.clone()).require_grad();
        let grads = (x.clone() * Tensor::from_inner(g.clone())).sum().backward();
        let _ = x.grad(&grads).unwrap();
    });
}
