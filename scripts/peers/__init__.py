"""What gpunet is measured against: the same networks trained by other libraries, at their best."""
