"""x"""

Optimized = optimize = None
