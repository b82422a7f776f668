//! Which images are held out.

use std::path::Path;

use scrl_core::data::ImageFolder;

/// Positions of training and held-out images: of every class the share `fraction` with the lowest hash of their path
/// below `root`, at least one, and never all.
///
/// The same files are held out wherever the folder lies and whatever other classes it has. A class of one image is not
/// held out at all.
pub fn split(data: &ImageFolder, root: &Path, fraction: f64) -> (Vec<usize>, Vec<usize>) {
    let (mut train, mut val) = (Vec::new(), Vec::new());
    for class in 0..data.classes.len() {
        let mut of_class: Vec<(u64, usize)> = (0..data.samples.len())
            .filter(|&index| data.samples[index].label == Some(class))
            .map(|index| {
                (
                    hash(data.samples[index].path.strip_prefix(root).unwrap_or(&data.samples[index].path)),
                    index,
                )
            })
            .collect();
        of_class.sort_unstable();
        let most = of_class.len().saturating_sub(1);
        let held_out = ((of_class.len() as f64 * fraction).round() as usize).max(1).min(most);
        val.extend(of_class[..held_out].iter().map(|entry| entry.1));
        train.extend(of_class[held_out..].iter().map(|entry| entry.1));
    }
    train.sort_unstable();
    val.sort_unstable();
    (train, val)
}

/// FNV-1a of the path's parts, its bits mixed by SplitMix64's finaliser.
fn hash(path: &Path) -> u64 {
    let parts = path.components().map(|part| part.as_os_str().to_string_lossy().into_owned());
    let text = parts.collect::<Vec<_>>().join("/");
    let mut z = text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use scrl_core::data::ImageFile;

    use super::*;

    fn folder(root: &str, counts: &[usize]) -> ImageFolder {
        let classes: Vec<String> = (0..counts.len()).map(|class| format!("class{class}")).collect();
        let sample = |class: usize, image: usize| ImageFile {
            path: format!("{root}/class{class}/{image:03}.png").into(),
            label: Some(class),
        };
        let samples = counts.iter().enumerate();
        let samples = samples.flat_map(|(class, &count)| (0..count).map(move |image| sample(class, image)));
        ImageFolder { samples: samples.collect(), classes, ..Default::default() }
    }

    #[test]
    fn every_class_gives_its_share_and_keeps_an_image() {
        let data = folder("a", &[10, 1, 2, 25]);
        let (train, val) = split(&data, Path::new("a"), 0.2);
        let held_out = |class| val.iter().filter(|&&i| data.samples[i].label == Some(class)).count();
        assert_eq!([0, 1, 2, 3].map(held_out), [2, 0, 1, 5]);
        let mut all = [train, val].concat();
        all.sort_unstable();
        assert_eq!(all, (0..38).collect::<Vec<_>>());
    }

    #[test]
    fn the_same_files_are_held_out_wherever_the_folder_lies() {
        let (here, there) = (folder("a", &[20, 20]), folder("b/c", &[20, 20]));
        let val = split(&here, Path::new("a"), 0.25).1;
        assert_eq!(val, split(&there, Path::new("b/c"), 0.25).1);
        assert_ne!(val, [0, 1, 2, 3, 4, 20, 21, 22, 23, 24], "the choice does not follow the names' order");
    }
}
