"""The zoo: U-net, MultiResUNet and their reduced kin for microplastic segmentation."""
